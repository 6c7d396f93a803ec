create or replace function app_private.own_turn_next(
  tenant app.tenants, every interval, daily_at time, last_slot bigint, at timestamptz)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
  v_run  constant uuid := app_private.turn_last((tenant).tenant_id);
  v_last constant date := (pg_catalog.to_timestamp(last_slot) at time zone (tenant).time_zone)::date;
  v_slot record;
  v_next timestamptz;
begin
  if every is not null then
    select n.* into v_slot from app_private.slot_of(at, own_turn_next.every, (tenant).shard) as n;
    -- At once when the last turn is a period ago; but two turns are half a period apart at least.
    v_next := case when coalesce(v_run < app_private.uuid_v7_floor(at - every), true) then at
              else v_slot.next_run_at end;
    return case
      when v_next = at and v_slot.next_run_at - at >= every / 2 then at
      when v_next > at and v_run > app_private.uuid_v7_floor(v_next - every / 2) then v_next + every
      else v_slot.next_run_at end;
  end if;

  -- A date has one turn, whatever is set after it; and one at once, when there was none and it has begun.
  v_next := app_private.daily_before(at, (tenant).time_zone, daily_at);
  if (v_next at time zone (tenant).time_zone)::date > v_last then
    return at;
  end if;
  v_next := app_private.daily_after(at, (tenant).time_zone, daily_at);
  return case when (v_next at time zone (tenant).time_zone)::date > v_last is false
    then app_private.daily_after(v_next, (tenant).time_zone, daily_at) else v_next end;
end
$$;

comment on function app_private.own_turn_next is
  'When a tenant''s next own turn is due once its schedule, or its time zone, is set to this. last_slot is its last daily '
  'turn, or null where the turns before were others.';

grant execute on function app_private.own_turn_next to holdfast_system;
