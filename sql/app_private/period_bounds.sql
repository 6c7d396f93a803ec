create or replace function app_private.period_bounds(
  period text, time_zone text, at timestamptz, anchor_day smallint default 1)
returns table (period_start timestamptz, period_end timestamptz)
language plpgsql
stable
set search_path = ''
as $$
declare
  v_local timestamp := at at time zone time_zone;
  v_begin timestamp;
begin
  if period = 'total' then
    return query select '-infinity'::timestamptz, 'infinity'::timestamptz;
    return;
  end if;

  v_begin := app_private.period_begin(period, v_local, anchor_day);
  -- Where clocks go back over midnight, that midnight comes twice and Postgres reads the second one: in the hour between
  -- them the period of the day before still runs.
  if v_begin at time zone time_zone > at then
    v_begin := app_private.period_begin(period, v_begin - interval '1 microsecond', anchor_day);
  end if;
  return query
  select v_begin at time zone time_zone,
         app_private.period_begin(period, v_begin + case period
             when 'day' then interval '1 day' when 'week' then interval '7 days' else interval '32 days' end,
           anchor_day) at time zone time_zone;
end
$$;

comment on function app_private.period_bounds is
  'First moment of the day, week or month around a moment in a time zone, and the first moment after it; total is endless. '
  'Months begin on the anchor day, or on the last day of a month that is shorter: 31 January, 28 February, 31 March.';

grant execute on function app_private.period_bounds to holdfast_system;
