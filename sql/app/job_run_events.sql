create table if not exists app.job_run_events (
  tenant_id  uuid        not null,
  id         uuid        not null default app_private.uuid_v7(),
  run_id     uuid        not null,
  from_state text,
  to_state   text        not null,
  attempt    integer     not null,
  actor      text        not null,
  reason     text,
  created_at timestamptz not null default clock_timestamp(),

  constraint job_run_events_pkey primary key (tenant_id, id)
) partition by range (id);

create index if not exists job_run_events_run_id_idx on app.job_run_events (tenant_id, run_id, id);

comment on table app.job_run_events is
  'The audit trail: every change of state that is made through app.job_runs, written by a trigger. Append only.';
comment on column app.job_run_events.tenant_id is 'Whose run it is.';
comment on column app.job_run_events.id is 'UUIDv7: also the order of events.';
comment on column app.job_run_events.run_id is 'The run.';
comment on column app.job_run_events.from_state is 'The state before; null for a new run.';
comment on column app.job_run_events.to_state is 'The state after.';
comment on column app.job_run_events.attempt is 'The attempt that it was.';
comment on column app.job_run_events.actor is 'The worker, the person, or the login that made the change.';
comment on column app.job_run_events.reason is 'The error code, or why a person did it.';
comment on column app.job_run_events.created_at is 'When it happened.';

call app_private.isolate('app.job_run_events', for_system => true);
call app_private.fence('app.job_run_events');
grant select, insert on app.job_run_events to holdfast_system;
