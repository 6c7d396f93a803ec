create table if not exists app.job_run_transitions (
  from_state text not null,
  to_state   text not null,
  meaning    text not null,

  constraint job_run_transitions_pkey primary key (from_state, to_state)
);

comment on table app.job_run_transitions is
  'The life of a run: every change of state that is not a row here is refused, whoever asks.';
comment on column app.job_run_transitions.from_state is 'The state before.';
comment on column app.job_run_transitions.to_state is 'The state after.';
comment on column app.job_run_transitions.meaning is 'What happened.';

insert into app.job_run_transitions (from_state, to_state, meaning)
values
  ('PENDING',     'RUNNING',     'A worker claimed it.'),
  ('PENDING',     'DEAD_LETTER', 'A person cancelled it.'),
  ('RUNNING',     'COMPLETED',   'The attempt ended, and its work was committed with it.'),
  ('RUNNING',     'FAILED',      'The attempt failed or its worker died; it is tried again.'),
  ('RUNNING',     'DEAD_LETTER', 'The attempt failed for good, or a person cancelled it.'),
  ('RUNNING',     'PENDING',     'The worker was stopped; the attempt does not count.'),
  ('FAILED',      'RUNNING',     'A worker claimed it again.'),
  ('FAILED',      'DEAD_LETTER', 'A person cancelled it.'),
  ('DEAD_LETTER', 'PENDING',     'A person replays it.')
on conflict on constraint job_run_transitions_pkey do nothing;

grant select on app.job_run_transitions to holdfast_system, holdfast_tenant;
