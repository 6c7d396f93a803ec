create or replace function app_private.daily_due(
  cohort app.tiers, at timestamptz, time_zone text, daily_at time, last_slot bigint)
returns table (slot bigint, missed bigint, counted bigint, taken bigint, then_at timestamptz)
language plpgsql
stable
set search_path = ''
as $$
declare
  v_begun  constant timestamptz := app_private.daily_before(at, time_zone, daily_at);
  v_epoch  constant date := date '1970-01-01';
  v_newest constant bigint := (v_begun at time zone time_zone)::date - v_epoch;
  v_last   constant bigint := (pg_catalog.to_timestamp(last_slot) at time zone time_zone)::date - v_epoch;
  v_turn   record;
begin
  -- Dates are counted, as turns of a day are: the same policies, whatever clocks do.
  select d.* into v_turn
  from app_private.turn_due(cohort, pg_catalog.to_timestamp(v_newest * 86400) + (at - v_begun),
    v_newest * 86400, null, 86400, v_last * 86400) as d;

  taken := extract(epoch from coalesce(
    app_private.daily_on(v_epoch + (v_turn.taken / 86400)::integer, time_zone, daily_at), v_begun));
  -- A date that had its turn has no second one, though the hour or the time zone was changed in between.
  slot := case when v_turn.slot is not null and v_last is distinct from v_newest then taken end;
  missed := v_turn.missed;
  counted := v_turn.counted;
  then_at := case when v_turn.then_at is null
    then app_private.daily_after(at, time_zone, daily_at) else at end;
  return next;
end
$$;

comment on function app_private.daily_due is
  'What app_private.turn_due is for other turns, for those of each day: exactly one on each date of the time zone.';

grant execute on function app_private.daily_due to holdfast_system;
