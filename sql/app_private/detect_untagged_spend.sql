create or replace function app_private.detect_untagged_spend(tenant_id uuid)
returns setof app_private.detected
language sql
stable
set search_path = ''
set timezone = 'UTC'
as $$
  with latest as (
    -- A day that has not come is an error of the export.
    select max(d.day) as day
    from app.cost_daily_current as d
    where d.tenant_id = $1 and d.charge_category = 'Usage' and d.day <= (now() at time zone 'UTC')::date
  ),
  lines as materialized (
    select l.billing_currency, l.effective_cost, l.tags, l.service_name, l.sub_account_name,
           l.dq_flags && app_private.doubtful_flags() as doubtful
    from app.cost_lines_current as l
    cross join latest as x
    where l.tenant_id = $1
      and l.charge_category = 'Usage'
      and l.charge_class is null
      and l.charge_period_start >= (x.day - 29)::timestamptz
      and l.charge_period_start < (x.day + 1)::timestamptz
  ),
  keys as (
    select distinct k.tag_key
    from app.tenants as t cross join lateral unnest(t.required_tags) as k (tag_key)
    where t.tenant_id = $1
  ),
  sums as (
    select k.tag_key, l.billing_currency as currency,
           sum(l.effective_cost) as total,
           coalesce(sum(l.effective_cost)
             filter (where coalesce(l.tags ->> k.tag_key, '') = ''), 0) as untagged,
           count(*) filter (where coalesce(l.tags ->> k.tag_key, '') = '') as untagged_lines,
           coalesce(avg(l.doubtful::integer), 0) as doubtful,
           mode() within group (order by l.service_name)
             filter (where coalesce(l.tags ->> k.tag_key, '') = '') as top_service
    from keys as k
    cross join lines as l
    group by k.tag_key, l.billing_currency
  )
  select 'untagged_spend', 1,
         'untagged_spend:' || md5(jsonb_build_array(s.tag_key, s.currency)::text),
         jsonb_build_object('tag', s.tag_key, 'currency', s.currency),
         -- Governance, not waste: one step less severe than the same money lost.
         app_private.severity_of(s.untagged / 10), s.currency, s.untagged, null::numeric, null::text,
         case when s.doubtful > 0.05 then 'low' else 'high' end,
         jsonb_build_object('days', 30, 'until', x.day, 'effective_cost', s.total,
           'untagged_cost', s.untagged,
           'untagged_lines', s.untagged_lines, 'coverage', round(1 - s.untagged / s.total, 4),
           'lines', 'Usage without corrections of the window, the tag absent or empty'),
         jsonb_build_object('tag', app_private.text_safe(s.tag_key),
           'untagged', app_private.money_text(s.untagged, s.currency),
           'total', app_private.money_text(s.total, s.currency),
           'untagged_share', round(100 * s.untagged / s.total) || ' %',
           'service', app_private.text_safe(coalesce(s.top_service, 'no service')), 'window', '30 days to ' || to_char(x.day, 'FMDD Mon YYYY')),
         '{{untagged}} of spend has no tag "{{tag}}"',
         '{{untagged_share}} of {{total}} in the {{window}} cannot be charged to anyone by "{{tag}}"; '
           || 'most often it is {{service}}.',
         'tag_resources'
  from sums as s
  cross join latest as x
  where s.total > 0 and s.untagged >= 5 and s.untagged >= 0.05 * s.total
$$;

comment on function app_private.detect_untagged_spend is
  'Usage of the last 30 days of data that lacks a required tag (app.tenants.required_tags), by tag and currency, from '
  '5 units of money and 5 percent on. No saving: it is governance. '
  'Corrections, purchases, tax and credits do not count.';
