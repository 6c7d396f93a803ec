create or replace function app_private.daily_after(at timestamptz, time_zone text, daily_at time)
returns timestamptz
language sql
stable
set search_path = ''
as $$
  select min(d.moment)
  from pg_catalog.generate_series(-1, 3) as n (days)
  cross join lateral (
    select app_private.daily_on(
      (at at time zone time_zone)::date + n.days, time_zone, daily_at) as moment) as d
  where d.moment > at
$$;

comment on function app_private.daily_after is
  'The first daily turn after a moment: one on each date of the time zone; see app_private.daily_on.';

grant execute on function app_private.daily_after to holdfast_system;
