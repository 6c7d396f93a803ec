create or replace function app_private.daily_before(at timestamptz, time_zone text, daily_at time)
returns timestamptz
language sql
stable
set search_path = ''
as $$
  select max(d.moment)
  from pg_catalog.generate_series(-3, 1) as n (days)
  cross join lateral (
    select app_private.daily_on(
      (at at time zone time_zone)::date + n.days, time_zone, daily_at) as moment) as d
  where d.moment <= at
$$;

comment on function app_private.daily_before is
  'The daily turn that a moment belongs to: the last one that has begun; see app_private.daily_on.';

grant execute on function app_private.daily_before to holdfast_system;
