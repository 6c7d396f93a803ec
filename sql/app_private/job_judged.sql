create or replace function app_private.job_judged(
  tenant_ids uuid[], run_ids uuid[], served text[], at timestamptz)
returns setof app_private.job_verdict
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
begin
  return query
  with due as materialized (
    select r.tenant_id, r.id, r.kind, r.priority, r.available_at, r.state
    from (select distinct u.* from unnest(tenant_ids, run_ids) as u (tenant_id, run_id)) as w
    join app.job_runs as r on r.tenant_id = w.tenant_id and r.id = w.run_id
    where r.state in ('PENDING', 'FAILED') and r.available_at <= at
    order by r.tenant_id, r.id
    for no key update of r skip locked
  )
  select d.tenant_id, d.id, d.kind,
         case when t.status <> 'ACTIVE' or t.jobs_paused_at is not null or c.paused_at is not null
                or k.paused_at is not null then 'parked'
              when d.kind <> all (served)
                and not exists (select from app_private.workers_alive as o where d.kind = any (o.kinds))
                then 'parked'
              when d.n > m.places_left then 'parked'
              when d.kind <> all (served) or d.n > m.starts_left then 'delayed'
              else 'start' end,
         case when d.kind <> all (served) then interval '5 seconds'
              when d.n > m.starts_left
                then (d.n - m.starts_exact) * interval '60 seconds' / k.rate_per_minute end,
         d.state
  from (
    select x.*, row_number() over (
             partition by x.tenant_id, x.kind order by x.priority, x.available_at, x.id) as n
    from due as x) as d
  join app.tenants as t on t.tenant_id = d.tenant_id
  join app.tiers as c on c.tier = t.tier
  join app.job_kinds as k on k.kind = d.kind
  left join app.job_gates as g on g.tenant_id = d.tenant_id and g.kind = d.kind
  cross join lateral (
    select case when k.max_running is not null then app_private.job_window(k.max_running, c.weight) - (
             select count(*) from app.job_runs as r
             where r.tenant_id = d.tenant_id and r.kind = d.kind and r.token_at is not null
               and r.state = 'RUNNING') end as places_left,
           case when k.rate_per_minute is not null
             then app_private.starts_left(g.starts_left, g.refilled_at, at, k.rate_per_minute, k.rate_burst)
           end as starts_exact,
           case when k.rate_per_minute is not null
             then pg_catalog.floor(
               app_private.starts_left(g.starts_left, g.refilled_at, at, k.rate_per_minute, k.rate_burst))
           end as starts_left) as m;
end
$$;

comment on function app_private.job_judged is
  'Which of these runs may start at a moment: start; parked, for its tenant, kind or cohort is paused or has no place left; '
  'delayed, by the rate of its kind, or because the worker does not serve it (null: it serves all). Locks the runs; one that somebody else holds is not answered. Under the '
  'locks of job_gates_lock.';

grant execute on function app_private.job_judged to holdfast_system;
