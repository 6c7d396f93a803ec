set local role holdfast_system;

create or replace view ops.workers as
select pg_catalog.right(w.worker, 8) as worker, pg_catalog.left(w.host, 14) as host, w.pid,
       pg_catalog.left(w.version, 8) as version,
       pg_catalog.left(pg_catalog.array_to_string(w.kinds, ','), 30) as kinds,
       w.running || '/' || w.concurrency as running,
       app_private.ago(greatest(pg_catalog.now() - w.seen_at, interval '0')) as seen,
       case when w.seen_at > pg_catalog.now() - interval '11 seconds' then 'alive' else 'late' end as verdict
from app.job_workers as w
order by w.host, w.started_at;

comment on view ops.workers is
  'Every worker process: the end of its name, what it has tasks for, how many runs it has of those it takes at a time, and when '
  'it last beat. late: two beats were lost; after 20 s it is removed, and its runs go to others.';

grant select on ops.workers to holdfast_ops;

set local role holdfast_owner;
