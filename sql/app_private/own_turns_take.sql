create or replace function app_private.own_turns_take(at timestamptz, max_rows integer)
returns table (tenant_id uuid, cohort text, slot bigint, missed bigint, overlapped boolean)
language plpgsql
set search_path = ''
set plan_cache_mode = force_custom_plan  -- as many rows as there are
as $$
declare
  v_ids uuid[];
begin
  v_ids := array(
    select s.tenant_id
    from app.tenant_schedules as s
    join app.tenants as t on t.tenant_id = s.tenant_id and t.status = 'ACTIVE' and t.jobs_paused_at is null
    join app.tiers as c on c.tier = t.tier and c.paused_at is null
    where s.next_run_at <= at
    order by s.next_run_at, s.tenant_id
    limit max_rows
    for no key update of s skip locked);

  return query
  with turns as materialized (
    select s.tenant_id, c.tier, app_private.turn_overlaps(c) as at_most,
           d.slot, d.missed, d.counted, d.taken, d.then_at
    from app.tenant_schedules as s
    join app.tenants as t on t.tenant_id = s.tenant_id
    join app.tiers as c on c.tier = t.tier
    cross join lateral (
      select e.*
      from app_private.slot_of(at, s.every, t.shard) as n
      cross join lateral app_private.turn_due(c, at, n.slot, n.next_run_at, n.seconds, s.last_slot) as e
      where s.every is not null
      union all
      select e.*
      from app_private.daily_due(c, at, t.time_zone, s.daily_at, s.last_slot) as e
      where s.daily_at is not null) as d
    where s.tenant_id = any (v_ids)
  ),
  moved as (
    update app.tenant_schedules as s
    set last_slot = t.taken, next_run_at = t.then_at, missed_slots = s.missed_slots + t.counted
    from turns as t
    where s.tenant_id = t.tenant_id
  )
  select t.tenant_id, t.tier, case when not f.overlapped then t.slot end, t.missed,
         f.overlapped and t.slot is not null
  from turns as t
  left join app_private.turns_open(v_ids) as o on o.tenant_id = t.tenant_id
  cross join lateral (select coalesce(o.turns > t.at_most, false)) as f (overlapped);
end
$$;

comment on function app_private.own_turns_take is
  'Locks up to max_rows tenants whose own turn is due, decides by the policies of their cohorts which one each takes, and '
  'moves their schedules on. Answers them all, with a slot where a run is to be made: none where the policy leaves the turn '
  'out, and none where it is overlapped by too many that have not ended.';

grant execute on function app_private.own_turns_take to holdfast_system;
