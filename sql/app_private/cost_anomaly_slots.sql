create or replace function app_private.cost_anomaly_slots(
  service text, sub_account text, region text, currency text, first_day date, flagged_days bigint,
  excess numeric, baseline numeric, cost numeric, monthly_saving numeric) returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_strip_nulls(jsonb_build_object(
    'service', app_private.text_safe(coalesce(service, 'an unnamed service')),
    'sub_account', app_private.text_safe(coalesce(sub_account, 'no sub-account')),
    'region', app_private.text_safe(coalesce(region, 'no region')),
    'first_day', to_char(first_day, 'FMDD Mon YYYY'),
    'days', flagged_days || case when flagged_days = 1 then ' day' else ' days' end,
    'excess', app_private.money_text(excess, currency),
    'excess_per_day', app_private.money_text(excess / flagged_days, currency),
    'baseline', app_private.money_text(baseline, currency),
    'cost', app_private.money_text(cost, currency),
    'monthly_saving', app_private.money_text(monthly_saving, currency)))
$$;

comment on function app_private.cost_anomaly_slots is 'The texts that a cost anomaly may be worded with.';
