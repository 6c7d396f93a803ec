create table if not exists app.job_kinds (
  kind                text    not null,
  timeout_seconds     integer not null default 300,
  max_retries         integer not null default 3,
  backoff_base_ms     integer not null default 2000,
  backoff_cap_ms      integer not null default 3600000,
  non_retryable_codes text[]  not null default '{}',
  description         text    not null,

  constraint job_kinds_pkey primary key (kind),
  constraint job_kinds_timeout_seconds_sane check (timeout_seconds between 1 and 86400),
  constraint job_kinds_max_retries_sane check (max_retries between 0 and 100),
  constraint job_kinds_backoff_sane check (backoff_base_ms > 0 and backoff_cap_ms >= backoff_base_ms)
);

comment on table app.job_kinds is
  'What kinds of job there are, how long one may run and how it is tried again. An operator may change the rows.';
comment on column app.job_kinds.kind is 'The name; tasks/ has a file for each.';
comment on column app.job_kinds.timeout_seconds is 'How long one attempt may take.';
comment on column app.job_kinds.max_retries is 'Attempts after the first failure; then the run is a dead letter.';
comment on column app.job_kinds.backoff_base_ms is 'Wait after the first failure; it doubles with each.';
comment on column app.job_kinds.backoff_cap_ms is
  'The wait stops doubling here; jitter makes it half to one and a half of it.';
comment on column app.job_kinds.non_retryable_codes is 'Error codes that make a run a dead letter at once.';
comment on column app.job_kinds.description is 'What it does.';

insert into app.job_kinds (kind, timeout_seconds, max_retries, non_retryable_codes, description)
values ('analysis', 120, 3, array['analysis_invalid'],
        'Runs the detectors over the costs of a tenant and has a model word what they found.')
on conflict on constraint job_kinds_pkey do nothing;

grant select on app.job_kinds to holdfast_system, holdfast_tenant;
