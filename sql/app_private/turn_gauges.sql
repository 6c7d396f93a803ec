set local role holdfast_system;

create or replace view app_private.turn_gauges as
with ended as (
  select r.tenant_id, count(*)::numeric as runs
  from app.job_runs as r
  where r.finished_at > pg_catalog.now() - interval '5 minutes'
  group by r.tenant_id
)
select 'scheduler_lag_seconds' as name, pg_catalog.jsonb_build_object('cohort', c.tier) as labels,
       case when c.paused_at is null
              then greatest(0, extract(epoch from
                pg_catalog.now() - least(min(s.next_run_at), min(o.next_run_at))))
            else 0 end::double precision as value
from app.tiers as c
join app.schedules as s on s.tier = c.tier
left join lateral (
  select min(x.next_run_at) as next_run_at
  from app.tenant_schedules as x
  join app.tenants as t on t.tenant_id = x.tenant_id and t.tier = c.tier
    and t.status = 'ACTIVE' and t.jobs_paused_at is null) as o on true
group by c.tier
union all
select 'holdfast_scheduler_missed_turns', pg_catalog.jsonb_build_object('cohort', s.tier), sum(s.missed_slots)
from app.schedules as s
group by s.tier
union all
-- Jain: 1 when every tenant had as many, 1/n when one had all.
select 'holdfast_job_fairness_index', '{}',
       pg_catalog.power(sum(e.runs), 2) / (count(*) * sum(e.runs * e.runs))
from ended as e
having count(*) >= 2
union all
select 'holdfast_workers_alive', '{}', count(*)
from app_private.workers_alive;

comment on view app_private.turn_gauges is
  'How late the scheduler is, what it passed over, how evenly tenants were served in the last 5 minutes (Jain''s index of '
  'their ended runs; no row for fewer than two tenants), and how many workers live.';

set local role holdfast_owner;
