create or replace function app_private.newcomers(tenant_ids uuid[], at timestamptz)
returns setof app_private.newcomer
language sql
volatile
set search_path = ''
as $$
  select t.tenant_id, c.every, n.slot, b.next_at, b.next_slot,
         -- A tick makes its turn where the shard is due, or at an open turn that has not come to it.
         not b.due and c.paused_at is null and t.status = 'ACTIVE' and t.jobs_paused_at is null
           and coalesce(l.run_id < app_private.uuid_v7_floor(at - c.every), true)
           and coalesce(app_private.turn_overlaps(c) >= coalesce(o.turns, 0), true)
  from unnest(tenant_ids) as w (tenant_id)
  join app.tenants as t on t.tenant_id = w.tenant_id
  join app.tiers as c on c.tier = t.tier
  join app.schedules as s on s.tier = t.tier and s.shard = t.shard
  cross join lateral app_private.slot_of(at, c.every, t.shard) as n
  cross join lateral (select app_private.turn_last(t.tenant_id) as run_id) as l
  cross join lateral (
    select s.next_run_at <= at and coalesce(t.tenant_id > s.resume_after, true) as due) as d
  cross join lateral (
    select d.due, case when d.due then at else x.next_at end as next_at,
           case when d.due then coalesce(s.open_slot, n.slot) else x.slot end as next_slot
    from (select y.next_at, z.slot
          from (select case when pg_catalog.isfinite(s.next_run_at)
                         then greatest(s.next_run_at, n.next_run_at) else n.next_run_at end as next_at) as y
          cross join lateral app_private.slot_of(y.next_at, c.every, t.shard) as z) as x) as b
  left join app_private.turns_open(tenant_ids) as o on o.tenant_id = t.tenant_id
  where not exists (select from app.tenant_schedules as o where o.tenant_id = t.tenant_id)
  order by t.tenant_id
$$;

comment on function app_private.newcomers is
  'Where tenants that have come to another cohort stand in it: the slot of the turn that has begun, when the next one that '
  'they could take begins, and whether they are due at once; see app_private.turns_settle.';

grant execute on function app_private.newcomers to holdfast_system;
