set local role holdfast_system;

create or replace view ops.schedules as
select s.schedule, s.every, s.tenants, s.due, app_private.ago(s.lag) as lag,
       pg_catalog.to_char(s.next_run_at, 'MM-DD HH24:MI') as next_turn, s.missed, s.policy,
       app_private.ago(pg_catalog.now() - s.paused_at) as paused
from (
  select c.tier as schedule, c.rank::integer as rank, pg_catalog.left(c.every::text, 15) as every,
         n.tenants, x.due,
         case when x.due > 0 and c.paused_at is null then pg_catalog.now() - x.next_run_at end as lag,
         x.next_run_at, x.missed, c.missed || '/' || c.overlap as policy, c.paused_at
  from app.tiers as c
  cross join lateral (
    select count(*) filter (where h.next_run_at <= pg_catalog.now()) as due,
           min(h.next_run_at) as next_run_at, coalesce(sum(h.missed_slots), 0)::bigint as missed
    from app.schedules as h where h.tier = c.tier) as x
  cross join lateral (
    select count(*) as tenants from app.tenants as t
    where t.tier = c.tier and t.status = 'ACTIVE'
      and not exists (select from app.tenant_schedules as o where o.tenant_id = t.tenant_id)) as n
  union all
  select pg_catalog.left(t.name, 20), 1000000,
         coalesce(pg_catalog.left(o.every::text, 15), 'daily ' || pg_catalog.left(o.daily_at::text, 5)), 1,
         (o.next_run_at <= pg_catalog.now())::integer,
         case when o.next_run_at <= pg_catalog.now() and t.jobs_paused_at is null and c.paused_at is null
                and t.status = 'ACTIVE' then pg_catalog.now() - o.next_run_at end,
         o.next_run_at, o.missed_slots, c.missed || '/' || c.overlap, least(t.jobs_paused_at, c.paused_at)
  from app.tenant_schedules as o
  join app.tenants as t on t.tenant_id = o.tenant_id
  join app.tiers as c on c.tier = t.tier) as s
order by s.rank, s.schedule;

comment on view ops.schedules is
  'When turns are due: a line for each cohort, then one for each tenant with turns of its own. due: shards that wait for the '
  'next tick, lag: for how long; missed: turns that passed without runs; policy: for missed turns / for overlaps.';

grant select on ops.schedules to holdfast_ops;

set local role holdfast_owner;
