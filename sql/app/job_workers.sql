create table if not exists app.job_workers (
  worker      text        not null,
  pool        text        not null,
  host        text        not null,
  pid         integer     not null,
  version     text        not null,
  kinds       text[]      not null,
  concurrency integer     not null,
  running     integer     not null default 0,
  started_at  timestamptz not null default now(),
  seen_at     timestamptz not null default now(),

  constraint job_workers_pkey primary key (worker)
);

comment on table app.job_workers is
  'The worker processes that live: each beats every 5 s, and one that was not heard of for 20 s is removed.';
comment on column app.job_workers.worker is 'Its name, as app.job_runs.worker has it: host:pid:pool.';
comment on column app.job_workers.pool is 'Its pool in graphile-worker, which marks the tokens that it holds.';
comment on column app.job_workers.host is 'The machine.';
comment on column app.job_workers.pid is 'The process there.';
comment on column app.job_workers.version is 'The version of holdfast that it runs.';
comment on column app.job_workers.kinds is 'The kinds of run that it has tasks for.';
comment on column app.job_workers.concurrency is 'How many runs it takes at a time.';
comment on column app.job_workers.running is 'How many it had at its last beat.';
comment on column app.job_workers.started_at is 'When it started.';
comment on column app.job_workers.seen_at is 'Its last beat.';

grant select, insert, update, delete on app.job_workers to holdfast_system;
