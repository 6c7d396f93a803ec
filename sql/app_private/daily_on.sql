create or replace function app_private.daily_on(on_date date, time_zone text, daily_at time)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
  v_wall   constant timestamp := on_date + daily_at;
  v_utc    constant timestamptz := v_wall at time zone 'UTC';
  v_before constant interval :=  -- the offset from UTC well before that moment, wherever it is
    (v_utc - interval '15 hours') at time zone time_zone - (v_utc - interval '15 hours') at time zone 'UTC';
  v_after  constant interval :=
    (v_utc + interval '15 hours') at time zone time_zone - (v_utc + interval '15 hours') at time zone 'UTC';
  v_low    timestamptz := v_utc - greatest(v_before, v_after);
  v_high   timestamptz := v_utc - least(v_before, v_after);
  v_middle timestamptz;
begin
  -- Where clocks show the time twice, the first of the two counts.
  if v_low at time zone time_zone = v_wall then
    return v_low;
  elsif v_high at time zone time_zone = v_wall then
    return v_high;
  end if;

  -- Clocks jump over it: to the second at which they do.
  while v_high - v_low > interval '1 second' loop
    v_middle := pg_catalog.date_trunc('second', v_low + (v_high - v_low) / 2);
    if v_middle at time zone time_zone < v_wall then
      v_low := v_middle;
    else
      v_high := v_middle;
    end if;
  end loop;
  return case on_date
    when (v_high at time zone time_zone)::date then v_high
    when (v_low at time zone time_zone)::date then v_low end;
end
$$;

comment on function app_private.daily_on is
  'The moment of the daily turn on a date of a time zone. Where clocks jump over the time, it is the first valid moment '
  'after, or the last second before when that is on the next date already; where they show it twice, the first of the two. '
  'Null for a date that the zone has skipped.';

grant execute on function app_private.daily_on to holdfast_system;
