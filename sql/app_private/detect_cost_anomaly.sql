create or replace function app_private.detect_cost_anomaly(tenant_id uuid) returns setof app_private.detected
language sql
stable
set search_path = ''
as $$
  with days as (
    -- Twice the days that are reported: the first day of an anomaly, which names it, must not leave the window.
    select * from app_private.cost_anomaly_days($1, scored_days => 60)
  ),
  numbered as (
    -- Days that are flagged one after the other, with gaps of at most two, are one anomaly.
    select d.*, sum((d.day - d.day_before > 3)::integer) over series as island
    from (select f.*, lag(f.day, 1, f.day - 9) over (
            partition by f.provider_name, f.sub_account_id, f.service_name, f.region_id, f.currency
            order by f.day) as day_before
          from days as f) as d
    window series as (
      partition by d.provider_name, d.sub_account_id, d.service_name, d.region_id, d.currency order by d.day)
  ),
  islands as (
    select n.provider_name, n.sub_account_id, max(n.sub_account_name) as sub_account_name, n.service_name,
           n.region_id, n.currency, min(n.day) as first_day, max(n.day) as last_day, count(*) as flagged_days,
           sum(n.excess) as excess, avg(n.excess) as excess_per_day, avg(n.baseline) as baseline,
           avg(n.cost) as cost,
           max(n.z) as z, bool_or(n.doubtful) as doubtful, max(n.last_data_day) as last_data_day,
           count(*) >= 3 and max(n.day) >= max(n.last_data_day) - 1 as running
    from numbered as n
    group by n.provider_name, n.sub_account_id, n.service_name, n.region_id, n.currency, n.island
    having max(n.day) > max(n.last_data_day) - 30
  )
  select 'cost_anomaly', 1,
         'cost_anomaly:' || md5(jsonb_build_array(i.provider_name, i.sub_account_id, i.service_name, i.region_id,
           i.currency, i.first_day)::text),
         jsonb_strip_nulls(jsonb_build_object('provider', i.provider_name, 'sub_account', i.sub_account_id,
           'sub_account_name', i.sub_account_name, 'service', i.service_name, 'region', i.region_id)),
         app_private.severity_of(case when i.running then i.excess_per_day * 30.4375 else i.excess end),
         i.currency, i.excess,
         case when i.running then round(i.excess_per_day * 30.4375, 2) end,
         case when i.running then 'modelled' end,
         case when i.doubtful then 'low' when i.z >= 8 then 'high' else 'medium' end,
         jsonb_build_object('first_day', i.first_day, 'last_day', i.last_day, 'flagged_days', i.flagged_days,
           'running', i.running, 'baseline_per_day', round(i.baseline, 4), 'cost_per_day', round(i.cost, 4),
           'excess', round(i.excess, 4), 'z', round(i.z, 1), 'until', i.last_data_day,
           'assumption',
           case when i.running then 'The saving assumes that the cost per day returns to its baseline.' end,
           'query', format('select day, sum(effective_cost) from ops.cost_daily where category = ''Usage'' '
             'and not correction and (provider, sub_account, service, region, cur) is not distinct from '
             '(%L, %L, %L, %L, %L) group by day order by day', i.provider_name, i.sub_account_id,
             i.service_name, i.region_id, i.currency)),
         app_private.cost_anomaly_slots(i.service_name, coalesce(i.sub_account_name, i.sub_account_id),
           i.region_id, i.currency, i.first_day, i.flagged_days, i.excess, i.baseline, i.cost,
           case when i.running then round(i.excess_per_day * 30.4375, 2) end),
         case when i.running then '{{service}} has cost {{excess_per_day}} a day too much since {{first_day}}'
              else '{{service}} cost {{excess}} more than usual around {{first_day}}' end,
         case when i.running then
           'In {{sub_account}}, {{region}}, it costs {{cost}} a day where {{baseline}} was usual; it has not gone back. '
             || 'A month of it is {{monthly_saving}}.'
         else
           'In {{sub_account}}, {{region}}, it cost {{cost}} a day where {{baseline}} was usual, on {{days}}.' end,
         case when i.running then 'investigate_running_increase' else 'explain_spike' end
  from islands as i
$$;

comment on function app_private.detect_cost_anomaly is
  'Runs of days that cost more than the days like them before (app_private.cost_anomaly_days), one finding for each that '
  'reaches into the last 30 days of its provider''s data. One that lasts three days and still stands has a modelled saving: its excess per day x 30.4375. '
  'A spike that is over has none.';
