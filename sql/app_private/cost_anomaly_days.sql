create or replace function app_private.cost_anomaly_days(tenant_id uuid, scored_days integer default 30)
returns table (
  provider_name text, sub_account_id text, sub_account_name text, service_name text, region_id text,
  currency text, day date, cost numeric, baseline numeric, excess numeric, z numeric, doubtful boolean,
  last_data_day date)
language sql
stable
set search_path = ''
as $$
  with daily as materialized (
    -- A day that has not come is an error of the export; it must not move the days that are looked at.
    select d.provider_name, d.sub_account_id, max(d.sub_account_name) as sub_account_name, d.service_name,
           d.region_id, d.billing_currency, d.day, sum(d.effective_cost) as cost,
           sum(d.doubtful_count) > 0.05 * sum(d.line_count) as doubtful,
           dense_rank() over (order by d.provider_name, d.sub_account_id, d.service_name, d.region_id,
             d.billing_currency) as series_id,
           max(d.day) over (partition by d.provider_name) as last_day,
           max(d.day) over () as tenant_last_day
    from app.cost_daily_current as d
    where d.tenant_id = $1
      and d.charge_category = 'Usage'
      and not d.correction
      and d.day <= (now() at time zone 'UTC')::date
    group by d.provider_name, d.sub_account_id, d.service_name, d.region_id, d.billing_currency, d.day
  ),
  series as (
    select x.series_id, x.provider_name, x.sub_account_id, max(x.sub_account_name) as sub_account_name,
           x.service_name, x.region_id, x.billing_currency, min(x.day) as first_day,
           max(x.last_day) as last_day
    from daily as x
    -- A provider that bills no more has nothing new to say.
    where x.last_day > x.tenant_last_day - 30
    group by x.series_id, x.provider_name, x.sub_account_id, x.service_name, x.region_id, x.billing_currency
  ),
  dense as materialized (
    -- A day without a line cost nothing; it must not be missing from the baseline.
    select s.series_id, s.last_day, g.day::date as day, extract(isodow from g.day) >= 6 as weekend,
           coalesce(x.cost, 0) as cost, coalesce(x.doubtful, false) as doubtful
    from series as s
    cross join lateral generate_series(
      greatest(s.first_day, s.last_day - scored_days - 41)::timestamp, s.last_day::timestamp,
      interval '1 day') as g (day)
    left join daily as x on x.series_id = s.series_id and x.day = g.day::date
  ),
  costs as (
    select x.series_id, x.weekend, array_agg(x.day order by x.day) as days,
           array_agg(x.cost order by x.day) as costs
    from dense as x
    group by x.series_id, x.weekend
  ),
  scored as (
    select x.series_id, x.day, x.cost, x.doubtful, m.median, m.points,
           1.4826 * greatest(m.mad, 0.067 * m.median, 0.01) as spread
    from dense as x
    join costs as c on c.series_id = x.series_id and c.weekend = x.weekend
    cross join lateral app_private.median_and_mad(c.days, c.costs, x.day - 42, x.day - 1) as m
    where x.day > x.last_day - scored_days and x.cost >= 5
  )
  select s.provider_name, s.sub_account_id, s.sub_account_name, s.service_name, s.region_id,
         s.billing_currency, x.day, x.cost, x.median, x.cost - x.median, (x.cost - x.median) / x.spread,
         x.doubtful, s.last_day
  from scored as x
  join series as s on s.series_id = x.series_id
  where x.points >= 6
    and x.cost - x.median >= greatest(5, 0.25 * x.median)
    and x.cost - x.median >= 4 * x.spread
$$;

comment on function app_private.cost_anomaly_days is
  'Days of the last scored_days whose Usage cost stands out in its series (provider, sub-account, service, region, '
  'currency): robust z >= 4 against the same class of days (weekdays, weekends) of the 42 days before, where z = '
  '(cost - median) / (1.4826 x MAD) and the MAD is at least 6.7 percent of the median; and an excess of at least 5 '
  'units of money and 25 percent. The last day is that of the provider, for providers do not export at the same hour. '
  'Source of the rule: Leys et al. 2013 (median absolute deviation), with floors of our own.';
