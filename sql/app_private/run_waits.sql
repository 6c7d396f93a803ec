set local role holdfast_system;

create or replace view app_private.run_waits as
with alive as (
  select count(*) as workers, coalesce(array_agg(distinct s.kind), '{}') as kinds
  from app_private.workers_alive as w
  cross join lateral unnest(w.kinds) as s (kind)
)
select r.tenant_id, t.name as tenant, r.id, r.kind, t.tier, r.state, r.attempt, r.priority, r.available_at,
       r.token_at, r.error_code, r.used, w.size,
       case when t.status <> 'ACTIVE' then t.updated_at
            when t.jobs_paused_at is not null then greatest(t.jobs_paused_at, r.created_at)
            when k.paused_at is not null then greatest(k.paused_at, r.created_at)
            when c.paused_at is not null then greatest(c.paused_at, r.created_at)
            when r.available_at > pg_catalog.now() or r.kind <> all (a.kinds)
              then coalesce(r.started_at, r.created_at)
            else greatest(r.available_at, r.created_at) end as since,
       case when t.status <> 'ACTIVE' then 'suspended'
            when t.jobs_paused_at is not null then 'tenant_paused'
            when k.paused_at is not null then 'kind_paused'
            when c.paused_at is not null then 'cohort_paused'
            when r.available_at > pg_catalog.now() and r.token_at is not null
              and k.rate_per_minute is not null
              and app_private.starts_left(
                g.starts_left, g.refilled_at, pg_catalog.now(), k.rate_per_minute, k.rate_burst) < 1
              then 'rate'
            -- A worker that does not serve it has put it off for 5 s.
            when r.available_at > pg_catalog.now() + interval '6 seconds' then
              case when r.state = 'FAILED' then 'retry' else 'later' end
            when a.workers = 0 then 'no_worker'
            when r.kind <> all (a.kinds) then 'no_worker_of_kind'
            when r.available_at > pg_catalog.now() and r.state = 'FAILED' then 'retry'
            when r.available_at > pg_catalog.now() then 'later'
            when r.token_at is not null then 'queued'
            when r.used >= w.size then 'places'
            else 'unadmitted' end as cause
from (
  select x.tenant_id, x.id, x.kind, x.state, x.attempt, x.priority, x.available_at, x.token_at, x.error_code,
         x.created_at, x.started_at,
         count(*) filter (
           where x.token_at is not null and (x.state <> 'FAILED' or x.available_at <= pg_catalog.now()))
           over (partition by x.tenant_id, x.kind) as used
  from app.job_runs as x
  where x.state in ('PENDING', 'RUNNING', 'FAILED')) as r
join app.tenants as t on t.tenant_id = r.tenant_id
join app.tiers as c on c.tier = t.tier
join app.job_kinds as k on k.kind = r.kind
left join app.job_gates as g on g.tenant_id = r.tenant_id and g.kind = r.kind
cross join alive as a
cross join lateral (select app_private.job_depth(k, c.weight) as size) as w
where r.state <> 'RUNNING';

comment on view app_private.run_waits is
  'Every run that waits, since when and by which cause; used of size places of its tenant and kind are taken. Whether a '
  'token is in the queue is not looked at: see ops.why_waiting.';

set local role holdfast_owner;
