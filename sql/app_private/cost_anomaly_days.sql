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
    select d.provider_name, d.sub_account_id, max(d.sub_account_name) as sub_account_name, d.service_name,
           d.region_id, d.billing_currency, d.day, sum(d.effective_cost) as cost,
           sum(d.doubtful_count) > 0.05 * sum(d.line_count) as doubtful
    from app.cost_daily_current as d
    where d.tenant_id = $1 and d.charge_category = 'Usage' and not d.correction
    group by d.provider_name, d.sub_account_id, d.service_name, d.region_id, d.billing_currency, d.day
  ),
  bounds as (
    select max(x.day) as last_day from daily as x
  ),
  series as (
    select s.*, row_number() over () as series_id
    from (select x.provider_name, x.sub_account_id, max(x.sub_account_name) as sub_account_name,
                 x.service_name, x.region_id, x.billing_currency, min(x.day) as first_day
          from daily as x
          group by x.provider_name, x.sub_account_id, x.service_name, x.region_id, x.billing_currency) as s
  ),
  dense as materialized (
    -- A day without a line cost nothing; it must not be missing from the baseline.
    select s.series_id, g.day::date as day, extract(isodow from g.day) >= 6 as weekend,
           coalesce(x.cost, 0) as cost, coalesce(x.doubtful, false) as doubtful
    from series as s
    cross join bounds as b
    cross join lateral generate_series(
      greatest(s.first_day, b.last_day - scored_days - 41)::timestamp, b.last_day::timestamp,
      interval '1 day') as g (day)
    left join daily as x
      on x.day = g.day::date
      and (x.provider_name, x.sub_account_id, x.service_name, x.region_id, x.billing_currency)
        is not distinct from
          (s.provider_name, s.sub_account_id, s.service_name, s.region_id, s.billing_currency)
  ),
  costs as (
    select x.series_id, x.weekend, array_agg(x.day order by x.day) as days,
           array_agg(x.cost order by x.day) as costs
    from dense as x
    group by x.series_id, x.weekend
  ),
  scored as (
    select x.series_id, x.day, x.cost, x.doubtful, m.median, m.mad, m.points
    from dense as x
    join bounds as b on x.day > b.last_day - scored_days
    join costs as c on c.series_id = x.series_id and c.weekend = x.weekend
    cross join lateral app_private.median_and_mad(c.days, c.costs, x.day - 42, x.day - 1) as m
    where x.cost > 0
  )
  select s.provider_name, s.sub_account_id, s.sub_account_name, s.service_name, s.region_id,
         s.billing_currency, x.day, x.cost, x.median, x.cost - x.median,
         (x.cost - x.median) / (1.4826 * greatest(x.mad, 0.067 * x.median, 0.01)), x.doubtful, b.last_day
  from scored as x
  join series as s on s.series_id = x.series_id
  cross join bounds as b
  where x.points >= 6
    and x.cost - x.median >= greatest(5, 0.25 * x.median)
    and x.cost - x.median >= 4 * 1.4826 * greatest(x.mad, 0.067 * x.median, 0.01)
$$;

comment on function app_private.cost_anomaly_days is
  'Days of the last scored_days whose Usage cost stands out in its series (provider, sub-account, service, region, '
  'currency): robust z >= 4 against the same class of days (weekdays, weekends) of the 42 days before, where z = '
  '(cost - median) / (1.4826 x MAD) and the MAD is at least 6.7 percent of the median; and an excess of at least 5 '
  'units of money and 25 percent. Source of the rule: Leys et al. '
  '2013 (median absolute deviation), with floors of our own.';
