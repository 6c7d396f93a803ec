create or replace function app_private.period_bounds(period text, time_zone text, at timestamptz)
returns table (period_start timestamptz, period_end timestamptz)
language sql
stable
set search_path = ''
as $$
  select case when period = 'total' then '-infinity' else pg_catalog.date_trunc(period, at, time_zone) end,
         case when period = 'total' then 'infinity'
              else (pg_catalog.date_trunc(period, at at time zone time_zone) + ('1 ' || period)::interval)
                at time zone time_zone end
$$;

comment on function app_private.period_bounds is
  'First moment of the day, week or month around a moment in a time zone, and the first moment after it; '
  'total is endless.';

grant execute on function app_private.period_bounds to holdfast_system;
