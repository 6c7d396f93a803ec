set local role holdfast_system;

create or replace view ops.jobs as
select pg_catalog.left(t.name, 14) as tenant, pg_catalog.left(r.kind, 11) as kind, r.state,
       app_private.ago(pg_catalog.now() - r.at) as ago,
       pg_catalog.left(concat_ws(' ',
         case when r.cancel_requested_at is not null and r.state = 'RUNNING' then 'cancelling' end,
         case when r.state <> 'COMPLETED' and r.state <> 'RUNNING' then r.error_code end,
         case when r.state = 'RUNNING' then round(r.progress * 100) || '%' end,
         case when r.state = 'RUNNING' then app_private.ago(pg_catalog.clock_timestamp() - r.started_at)
              when r.finished_at is not null then
                round(extract(epoch from r.finished_at - r.started_at), 1) || 's' end,
         case when r.attempt > 1 then 'try ' || r.attempt end,
         case when r.state = 'RUNNING' then r.progress_text end), 16) as note,
       r.id
from (
  (select x.tenant_id, x.id, x.kind, x.state, x.attempt, x.error_code, x.progress, x.progress_text,
          x.started_at, x.finished_at, x.cancel_requested_at, x.finished_at as at
   from app.job_runs as x
   where x.finished_at is not null
   order by x.finished_at desc)
  union all
  (select x.tenant_id, x.id, x.kind, x.state, x.attempt, x.error_code, x.progress, x.progress_text,
          x.started_at, x.finished_at, x.cancel_requested_at, coalesce(x.started_at, x.created_at)
   from app.job_runs as x
   where x.state in ('PENDING', 'RUNNING', 'FAILED')
   order by coalesce(x.started_at, x.created_at) desc)) as r
join app.tenants as t on t.tenant_id = r.tenant_id
order by r.at desc;

comment on view ops.jobs is
  'Every run, long names cut, newest first by when it ended, else began, else was made. note: the error, how much is done, how long it took, '
  'which try it is. ops.job_show tells all of one.';

grant select on ops.jobs to holdfast_ops;

set local role holdfast_owner;
