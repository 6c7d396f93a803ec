create or replace function app_private.period_bounds(period text, time_zone text, at timestamptz)
returns table (period_start timestamptz, period_end timestamptz)
language plpgsql
stable
set search_path = ''
as $$
declare
  v_begin timestamp;
begin
  if period = 'total' then
    return query select '-infinity'::timestamptz, 'infinity'::timestamptz;
    return;
  end if;

  v_begin := pg_catalog.date_trunc(period, at at time zone time_zone);
  -- Where clocks go back over midnight, that midnight comes twice and Postgres reads the second one: in the hour between
  -- them the period of the day before still runs.
  if v_begin at time zone time_zone > at then
    v_begin := pg_catalog.date_trunc(period, v_begin - interval '1 microsecond');
  end if;
  return query
  select v_begin at time zone time_zone, (v_begin + ('1 ' || period)::interval) at time zone time_zone;
end
$$;

comment on function app_private.period_bounds is
  'First moment of the day, week or month around a moment in a time zone, and the first moment after it; total is endless.';

grant execute on function app_private.period_bounds to holdfast_system;
