create or replace function app_private.median_and_mad(
  days date[], costs numeric[], from_day date, to_day date)
returns table (median numeric, mad numeric, points bigint)
language sql
immutable
parallel safe
set search_path = ''
as $$
  with window_costs as (
    select c.cost::double precision as cost
    from unnest(days, costs) as c (day, cost)
    where c.day between from_day and to_day
  ),
  middle as (
    select percentile_cont(0.5) within group (order by w.cost) as median, count(*) as points
    from window_costs as w
  )
  select m.median::numeric,
         (select percentile_cont(0.5) within group (order by abs(w.cost - m.median))
          from window_costs as w)::numeric,
         m.points
  from middle as m
$$;

comment on function app_private.median_and_mad is
  'Median and median absolute deviation of the costs between two days, and how many days there were.';
