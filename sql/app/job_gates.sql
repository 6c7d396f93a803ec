create table if not exists app.job_gates (
  tenant_id   uuid        not null,
  kind        text        not null,
  starts_left numeric     not null default 0,
  refilled_at timestamptz not null default '-infinity',

  constraint job_gates_pkey primary key (tenant_id, kind)
);

comment on table app.job_gates is
  'What those who claim runs of one tenant and a limited kind lock, so that its limits hold whoever claims; and the '
  'bucket of its rate. How many run is counted in app.job_runs, never kept.';
comment on column app.job_gates.tenant_id is 'Whose runs they are.';
comment on column app.job_gates.kind is 'A kind with a limit.';
comment on column app.job_gates.starts_left is 'How many may start at refilled_at; rate_per_minute adds to it.';
comment on column app.job_gates.refilled_at is 'When starts_left was counted.';

call app_private.isolate('app.job_gates', for_system => true);
grant select, insert, update on app.job_gates to holdfast_system;
