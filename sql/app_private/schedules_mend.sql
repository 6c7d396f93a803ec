create or replace function app_private.schedules_mend(at timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_mended integer;
begin
  -- No turn is ever set further ahead than one and a half periods: the clock has gone back since.
  with ahead as materialized (
    select s.tier, s.shard, c.every
    from app.schedules as s
    join app.tiers as c on c.tier = s.tier
    where s.next_run_at > at + 2 * c.every and pg_catalog.isfinite(s.next_run_at)
    order by s.tier, s.shard
    for no key update of s skip locked
  )
  update app.schedules as s
  set next_run_at = n.next_run_at, last_slot = least(s.last_slot, n.slot)
  from ahead as a
  cross join lateral app_private.slot_of(at, a.every, a.shard) as n
  where s.tier = a.tier and s.shard = a.shard;
  get diagnostics v_mended = row_count;

  with ahead as materialized (
    select s.tenant_id
    from app.tenant_schedules as s
    where s.next_run_at > at + 2 * coalesce(s.every, interval '3 days') and pg_catalog.isfinite(s.next_run_at)
    order by s.tenant_id
    for no key update of s skip locked
  )
  update app.tenant_schedules as s
  set next_run_at = at
  from ahead as a
  where s.tenant_id = a.tenant_id;
  return v_mended;
end
$$;

comment on function app_private.schedules_mend is
  'Brings turns back that a clock which had run ahead has set too far away. Slots that were taken meanwhile stay taken, so '
  'that none is made twice. Answers how many shards it mended.';

grant execute on function app_private.schedules_mend to holdfast_system;
