create or replace view app_private.workers_alive as
select w.worker, w.kinds
from app.job_workers as w
where w.seen_at > pg_catalog.clock_timestamp() - interval '20 seconds';

comment on view app_private.workers_alive is
  'The workers that were heard of within 20 s, and the kinds that they have tasks for; app.workers_reap removes the others.';

grant select on app_private.workers_alive to holdfast_system;
