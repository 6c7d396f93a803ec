set local role holdfast_system;

create or replace function app.tiers_derive(max_rows integer default 5000) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_now   constant timestamptz := pg_catalog.clock_timestamp();
  v_ids   uuid[];
  v_moved uuid[];
begin
  perform app_private.schedules_mend(v_now);

  v_ids := array(
    select t.tenant_id
    from app.tenants as t
    join app.plans as p on p.plan = t.plan
    where t.tier <> app_private.tier_of(p, t.last_active_at, t.pinned_tier, v_now)
    limit max_rows);
  if pg_catalog.cardinality(v_ids) = 0 then
    return 0;
  end if;

  -- Both shards are held while a tenant goes from one to the other; where a tick is at one, the tenant stays for now.
  with shards as materialized (
    select s.tier, s.shard
    from app.schedules as s
    where exists (
      select from app.tenants as t
      join app.plans as p on p.plan = t.plan
      where t.tenant_id = any (v_ids) and t.shard = s.shard
        and s.tier in (t.tier, app_private.tier_of(p, t.last_active_at, t.pinned_tier, v_now)))
    order by s.tier, s.shard
    for no key update of s skip locked
  ),
  moved as (
    update app.tenants as t
    set tier = app_private.tier_of(p, t.last_active_at, t.pinned_tier, v_now)
    from app.plans as p
    where t.tenant_id = any (v_ids) and p.plan = t.plan
      and t.tier <> app_private.tier_of(p, t.last_active_at, t.pinned_tier, v_now)
      and exists (select from shards as s where s.tier = t.tier and s.shard = t.shard)
      and exists (
        select from shards as s
        where s.tier = app_private.tier_of(p, t.last_active_at, t.pinned_tier, v_now) and s.shard = t.shard)
    returning t.tenant_id
  )
  select array_agg(m.tenant_id) into v_moved from moved as m;
  if v_moved is null then
    return 0;
  end if;

  perform app_private.turns_settle(v_moved);
  return pg_catalog.cardinality(v_moved);
end
$$;

comment on function app.tiers_derive is
  'Moves up to max_rows tenants, among all tenants, to the cohort that follows from their plan, their last activity and '
  'their pin, and settles their turns, so that none is run twice for a slot or forgotten: see app_private.turns_settle. A '
  'tenant of a shard that is being ticked is left for the next call. Answers how many were moved; call it once a minute, '
  'and again while it answers max_rows.';

grant execute on function app.tiers_derive to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
