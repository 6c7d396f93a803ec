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
  token_at      timestamptz,
  lease_until   timestamptz,
  created_at    timestamptz not null default now(),
  started_at    timestamptz,
  finished_at   timestamptz,
  token_rank    smallint    not null default 0,
  progress      real,
  progress_text text,
  cancel_requested_at timestamptz,
  discarded_at  timestamptz,
  replay_count  integer     not null default 0,
  actor         text,
  reason        text,

  constraint job_runs_pkey primary key (tenant_id, id),
  constraint job_runs_state_known
    check (state in ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'DEAD_LETTER')),
  constraint job_runs_lease_iff_running check ((state = 'RUNNING') = (lease_until is not null)),
  constraint job_runs_finished_at_iff_ended
    check ((state in ('COMPLETED', 'DEAD_LETTER')) = (finished_at is not null)),
  constraint job_runs_error_code_iff_failed
    check (state not in ('FAILED', 'DEAD_LETTER') or error_code is not null),
  constraint job_runs_counts_sane
    check (attempt >= 0 and failure_count >= 0 and crash_count >= 0 and replay_count >= 0),
  constraint job_runs_token_rank_positive check (token_rank >= 0),
  constraint job_runs_progress_sane check (progress between 0 and 1 and length(progress_text) <= 200),
  constraint job_runs_running_has_token check (state <> 'RUNNING' or token_at is not null),
  constraint job_runs_discarded_iff_dead check (discarded_at is null or state = 'DEAD_LETTER'),
  constraint job_runs_reason_bounded check (length(actor) <= 100 and length(reason) <= 500)
) partition by range (id);

create index if not exists job_runs_live_idx
  on app.job_runs (tenant_id, kind, token_at) where state in ('PENDING', 'RUNNING', 'FAILED');
create index if not exists job_runs_lease_until_idx on app.job_runs (lease_until) where state = 'RUNNING';
create index if not exists job_runs_token_at_idx
  on app.job_runs (token_at) where state in ('PENDING', 'FAILED') and token_at is not null;
create index if not exists job_runs_parked_idx
  on app.job_runs (tenant_id, kind, priority, available_at, id)
  where state in ('PENDING', 'FAILED') and token_at is null;
create index if not exists job_runs_due_idx
  on app.job_runs (available_at) where state in ('PENDING', 'FAILED') and token_at is null;
create index if not exists job_runs_finished_at_idx
  on app.job_runs (finished_at) where finished_at is not null;
create index if not exists job_runs_id_idx on app.job_runs using brin (id);
create index if not exists job_runs_dead_idx
  on app.job_runs (tenant_id, id) where state = 'DEAD_LETTER' and discarded_at is null;
create index if not exists job_runs_replayed_idx
  on app.job_runs (kind, replay_count) where replay_count > 0;

comment on table app.job_runs is
  'The truth about every job. A job of graphile-worker is only a token that wakes a worker up for one of these.';
comment on column app.job_runs.tenant_id is 'Whose run it is.';
comment on column app.job_runs.id is 'The run; UUIDv7.';
comment on column app.job_runs.kind is 'What it does; see app.job_kinds.';
comment on column app.job_runs.slot is
  'The turn of the scheduler that made it: when it began, in seconds since 1970. Null when someone asked for it.';
comment on column app.job_runs.state is
  'PENDING, RUNNING, then COMPLETED, or FAILED (tried again), or DEAD_LETTER; see app.job_run_transitions.';
comment on column app.job_runs.attempt is 'Counts the claims. It fences: what an older attempt writes is refused.';
comment on column app.job_runs.failure_count is 'How many attempts failed.';
comment on column app.job_runs.crash_count is 'How many attempts ended with a lost worker; three make a dead letter.';
comment on column app.job_runs.priority is 'Which of a tenant''s own waiting runs goes first; lower is earlier.';
comment on column app.job_runs.input is 'What the task was asked.';
comment on column app.job_runs.result is 'What the task answered.';
comment on column app.job_runs.error_code is 'The fixed name of the last error.';
comment on column app.job_runs.error is 'The last error, for a person; never a secret or a prompt.';
comment on column app.job_runs.worker is 'Who claimed it; null once that worker was lost.';
comment on column app.job_runs.available_at is 'Not claimed before this.';
comment on column app.job_runs.token_at is
  'When its last token was queued; a lost one is queued again. Null: it is not admitted yet, see ops.why_waiting.';
comment on column app.job_runs.lease_until is 'When its worker counts as lost, unless it beats; null unless RUNNING.';
comment on column app.job_runs.created_at is 'When it was made.';
comment on column app.job_runs.started_at is 'When the last attempt began.';
comment on column app.job_runs.finished_at is 'When it ended for good.';
comment on column app.job_runs.token_rank is
  'Which of its tenant''s admitted runs of this kind it is, from 0: tokens of a lower rank go first, so that tenants take turns.';
comment on column app.job_runs.progress is 'How much of the attempt is done, 0 to 1, as its task says.';
comment on column app.job_runs.progress_text is 'What the task is at, in its words.';
comment on column app.job_runs.cancel_requested_at is
  'When its end was asked for while it ran: its task is told within 5 s, and it ends without it 15 s later.';
comment on column app.job_runs.discarded_at is
  'When a dead letter was put aside by a person, or cancelled; null while it waits for one.';
comment on column app.job_runs.replay_count is 'How often a person replayed it.';
comment on column app.job_runs.actor is 'Who last cancelled, replayed or discarded it.';
comment on column app.job_runs.reason is 'Why, in the words of the actor.';

call app_private.isolate('app.job_runs', for_system => true);
call app_private.fence('app.job_runs');
grant select, insert, update on app.job_runs to holdfast_system;
