set local role holdfast_system;

create or replace function app.schedule_tick(max_shards integer default 16)
returns table (runs integer, shards integer)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_run_ids    uuid[];
  v_tenant_ids uuid[];
begin
  -- Locks come in one order, and what another tick holds is skipped: any number of callers, no deadlock, no duplicate.
  with due as materialized (
    select s.tier, s.shard, n.slot, n.next_run_at, t.rank
    from app.schedules as s
    join app.tiers as t on t.tier = s.tier
    cross join lateral app_private.slot_of(pg_catalog.clock_timestamp(), t.every, s.shard) as n
    where s.next_run_at <= pg_catalog.clock_timestamp()
    order by s.next_run_at, s.tier, s.shard
    limit max_shards
    for no key update of s skip locked
  ),
  advanced as (
    update app.schedules as s
    set next_run_at = d.next_run_at, last_slot = d.slot
    from due as d
    where s.tier = d.tier and s.shard = d.shard
    returning s.tier
  ),
  taken as (
    insert into app.job_slots (tenant_id, kind, slot, run_id)
    select t.tenant_id, 'analysis', d.slot, app_private.uuid_v7()
    from due as d
    join app.tenants as t on t.tier = d.tier and t.shard = d.shard and t.status = 'ACTIVE'
    where not exists (
      select from app.job_runs as r
      where r.tenant_id = t.tenant_id and r.kind = 'analysis' and r.state in ('PENDING', 'RUNNING', 'FAILED'))
    order by t.tenant_id
    on conflict on constraint job_slots_pkey do nothing
    returning tenant_id, slot, run_id
  ),
  made as (
    insert into app.job_runs (tenant_id, id, kind, slot, priority)
    select k.tenant_id, k.run_id, 'analysis', k.slot, x.rank
    from taken as k
    join app.tenants as t on t.tenant_id = k.tenant_id
    join app.tiers as x on x.tier = t.tier
    returning id, tenant_id
  )
  select array_agg(m.id), array_agg(m.tenant_id), (select count(*) from advanced)
  into v_run_ids, v_tenant_ids, shards
  from made as m;

  runs := coalesce(pg_catalog.cardinality(v_run_ids), 0);
  if runs > 0 then
    perform app_private.tokens_add(v_run_ids, v_tenant_ids);
  end if;
  return next;
end
$$;

comment on function app.schedule_tick is
  'Makes the runs that are due, among all tenants, with their tokens, in one transaction; any number may call it at '
  'once. A tenant whose last run has not ended is passed over. Answers how many runs and shards.';

grant execute on function app.schedule_tick to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
