create table if not exists app.job_runs (
  tenant_id     uuid        not null,
  id            uuid        not null default app_private.uuid_v7(),
  kind          text        not null,
  slot          bigint,
  state         text        not null default 'PENDING',
  attempt       integer     not null default 0,
  failure_count integer     not null default 0,
  crash_count   integer     not null default 0,
  priority      smallint    not null default 0,
  input         jsonb       not null default '{}',
  result        jsonb,
  error_code    text,
  error         text,
  worker        text,
  available_at  timestamptz not null default now(),
  token_at      timestamptz not null default now(),
  lease_until   timestamptz,
  created_at    timestamptz not null default now(),
  started_at    timestamptz,
  finished_at   timestamptz,

  constraint job_runs_pkey primary key (tenant_id, id),
  constraint job_runs_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint job_runs_kind_fkey foreign key (kind) references app.job_kinds (kind) on delete restrict,
  constraint job_runs_state_known
    check (state in ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'DEAD_LETTER')),
  constraint job_runs_lease_iff_running check ((state = 'RUNNING') = (lease_until is not null)),
  constraint job_runs_finished_at_iff_ended
    check ((state in ('COMPLETED', 'DEAD_LETTER')) = (finished_at is not null)),
  constraint job_runs_error_code_iff_failed
    check (state not in ('FAILED', 'DEAD_LETTER') or error_code is not null),
  constraint job_runs_counts_sane check (attempt >= 0 and failure_count >= 0 and crash_count >= 0)
) partition by range (id);

create index if not exists job_runs_live_idx
  on app.job_runs (tenant_id, kind) where state in ('PENDING', 'RUNNING', 'FAILED');
create index if not exists job_runs_lease_until_idx on app.job_runs (lease_until) where state = 'RUNNING';
create index if not exists job_runs_available_at_idx
  on app.job_runs (available_at) where state in ('PENDING', 'FAILED');
create index if not exists job_runs_kind_idx on app.job_runs (kind);

comment on table app.job_runs is
  'The truth about every job. A job of graphile-worker is only a token that wakes a worker up for one of these.';
comment on column app.job_runs.tenant_id is 'Whose run it is.';
comment on column app.job_runs.id is 'The run; UUIDv7.';
comment on column app.job_runs.kind is 'What it does; see app.job_kinds.';
comment on column app.job_runs.slot is 'Which turn of the scheduler made it; null when someone asked for it.';
comment on column app.job_runs.state is
  'PENDING, RUNNING, then COMPLETED, or FAILED (tried again), or DEAD_LETTER; see app.job_run_transitions.';
comment on column app.job_runs.attempt is 'Counts the claims. It fences: what an older attempt writes is refused.';
comment on column app.job_runs.failure_count is 'How many attempts failed.';
comment on column app.job_runs.crash_count is 'How many attempts ended with a lost worker; three make a dead letter.';
comment on column app.job_runs.priority is 'Which goes first; lower is earlier.';
comment on column app.job_runs.input is 'What the task was asked.';
comment on column app.job_runs.result is 'What the task answered.';
comment on column app.job_runs.error_code is 'The fixed name of the last error.';
comment on column app.job_runs.error is 'The last error, for a person; never a secret or a prompt.';
comment on column app.job_runs.worker is 'Who claimed it; null once that worker was lost.';
comment on column app.job_runs.available_at is 'Not claimed before this.';
comment on column app.job_runs.token_at is 'When its last token was queued; a lost one is queued again.';
comment on column app.job_runs.lease_until is 'When its worker counts as lost, unless it beats; null unless RUNNING.';
comment on column app.job_runs.created_at is 'When it was made.';
comment on column app.job_runs.started_at is 'When the last attempt began.';
comment on column app.job_runs.finished_at is 'When it ended for good.';

call app_private.isolate('app.job_runs', for_system => true);
call app_private.fence('app.job_runs');
grant select, insert, update on app.job_runs to holdfast_system;
