set local role holdfast_system;

create or replace view app_private.job_gauges as
with counted as (
  select r.tenant_id, r.kind, 'running' as state, null::timestamptz as due_at, r.started_at, r.lease_until
  from app.job_runs as r
  where r.state = 'RUNNING'
  union all
  (select r.tenant_id, r.kind, case when r.available_at <= pg_catalog.now() then 'admitted'
                                    when r.state = 'FAILED' then 'retrying' else 'later' end,
          case when r.available_at <= pg_catalog.now() then r.available_at end, null, null
   from app.job_runs as r
   where r.state in ('PENDING', 'FAILED') and r.token_at is not null
   order by r.token_at
   limit 100000)
  union all
  (select r.tenant_id, r.kind, case when r.available_at <= pg_catalog.now() then 'parked'
                                    when r.state = 'FAILED' then 'retrying' else 'later' end,
          case when r.available_at <= pg_catalog.now() then r.available_at end, null, null
   from app.job_runs as r
   where r.state in ('PENDING', 'FAILED') and r.token_at is null
   limit 100000)
  union all
  (select r.tenant_id, r.kind, 'dead_letter', null, null, null
   from app.job_runs as r
   where r.state = 'DEAD_LETTER' and r.discarded_at is null
   limit 100000)
)
select c.kind, t.tier as cohort, c.state, count(*) as runs,
       coalesce(max(extract(epoch from pg_catalog.now() - c.due_at)), 0) as pending_seconds,
       coalesce(max(extract(epoch from pg_catalog.now() - c.started_at)), 0) as running_seconds,
       coalesce(max(extract(epoch from pg_catalog.now() - c.started_at) / k.timeout_seconds), 0)
         as running_ratio,
       min(extract(epoch from c.lease_until - pg_catalog.now())) as lease_seconds
from counted as c
join app.tenants as t on t.tenant_id = c.tenant_id
join app.job_kinds as k on k.kind = c.kind
group by c.kind, t.tier, c.state;

comment on view app_private.job_gauges is
  'The runs that have not ended, and the dead letters, by kind, cohort and state, with the age of the oldest. Counts no '
  'further than 100000 of a state: what is read every few seconds must stay cheap when most is to be read.';

set local role holdfast_owner;
