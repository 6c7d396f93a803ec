create or replace function app_private.shard_take(at timestamptz, max_rows integer, since timestamptz)
returns table (
  due_at timestamptz, cohort text, slot bigint, missed bigint, tenant_ids uuid[], overlapped integer,
  again boolean)
language plpgsql
set search_path = ''
as $$
declare
  v_shard  app.schedules;
  v_cohort app.tiers;
  v_slot   record;
  v_turn   record;
  v_last   uuid;
  v_more   boolean;
begin
  -- One row at a time, and what another tick holds is skipped: what this one does not reach is free for others.
  select s.* into v_shard
  from app.schedules as s
  where s.next_run_at <= at and s.next_run_at >= since
    and exists (select from app.tiers as c where c.tier = s.tier and c.paused_at is null)
  order by s.next_run_at, s.tier, s.shard
  limit 1
  for no key update of s skip locked;
  if not found then
    return;
  end if;
  select c.* into v_cohort from app.tiers as c where c.tier = v_shard.tier;
  due_at := v_shard.next_run_at;
  cohort := v_shard.tier;
  tenant_ids := array[]::uuid[];

  select n.* into v_slot from app_private.slot_of(at, v_cohort.every, v_shard.shard) as n;
  if v_shard.open_slot is not null then
    -- It began in an earlier tick, and is brought to its end whatever is due by now.
    select d.slot, d.between as missed, d.between as counted, d.slot as taken,
           case when v_slot.slot > d.slot then at else v_slot.next_run_at end as then_at
    into v_turn
    from (select v_shard.open_slot as slot, coalesce(greatest(0, pg_catalog.ceil(
            (v_shard.open_slot - v_shard.last_slot)::numeric / v_slot.seconds)::bigint - 1), 0) as between
    ) as d;
  else
    select d.* into v_turn
    from app_private.turn_due(
      v_cohort, at, v_slot.slot, v_slot.next_run_at, v_slot.seconds, v_shard.last_slot) as d;
  end if;
  slot := v_turn.slot;
  missed := v_turn.missed;

  if slot is not null then
    tenant_ids := app_private.turn_tenants(v_cohort, v_shard.shard, v_shard.resume_after, max_rows + 1);
  end if;
  v_last := tenant_ids[max_rows];
  v_more := tenant_ids[max_rows + 1] is not null;
  overlapped := pg_catalog.cardinality(tenant_ids[1:max_rows]);
  tenant_ids := app_private.turns_fit(tenant_ids[1:max_rows], app_private.turn_overlaps(v_cohort));
  overlapped := overlapped - pg_catalog.cardinality(tenant_ids);
  update app.schedules as s
  set open_slot = case when v_more then shard_take.slot end,
      resume_after = case when v_more then v_last end,
      last_slot = case when v_more then s.last_slot else v_turn.taken end,
      next_run_at = case when v_more then s.next_run_at else v_turn.then_at end,
      missed_slots = s.missed_slots + case when v_more then 0 else v_turn.counted end
  where s.tier = v_shard.tier and s.shard = v_shard.shard;
  again := not v_more and v_turn.then_at <= at;
  return next;
end
$$;

comment on function app_private.shard_take is
  'Locks the shard that is due for the longest, not before since, decides by the policies of its cohort which turn it takes, '
  'and moves it on. Answers the turn and at most max_rows of its tenants, less those whose turns before have not ended: '
  'overlapped is how many. Where there are more, the turn stays open, and the next call goes on after the last one. due_at is '
  'what the next call may have as since: a turn that is still due stays at or goes behind it. again: the shard has another '
  'turn to take. No row: nothing is due that no other tick holds.';

grant execute on function app_private.shard_take to holdfast_system;
