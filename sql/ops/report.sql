set local role holdfast_system;

create or replace view ops.report as
select t.name as tenant, t.tier,
       coalesce(c.lines, 0) as rows, coalesce(c.flagged, 0) as flags, coalesce(f.findings, 0) as findings,
       case when s.currencies = 1 then s.saving end as saving, coalesce(s.currency, c.currency) as currency,
       coalesce(m.reserved, 0) as reserved, coalesce(m.settled, 0) as settled, b.left_usd as "left",
       case when l.live then 'running'
            when r.id is null then 'no_analysis'
            when r.state = 'DEAD_LETTER' then r.error_code
            when a.narrated_by = 'model' or a.fallback_reason = 'no_findings' then 'completed'
            else a.fallback_reason end
         || case when a.without <> '{}' and not l.live
              then ' without ' || array_to_string(a.without, ', ') else '' end as state
from app.tenants as t
join app.tiers as x on x.tier = t.tier
left join lateral (
  select sum(d.line_count) as lines, sum(d.flagged_count) as flagged,
         mode() within group (order by d.billing_currency) as currency
  from app.cost_periods as p
  join app.cost_daily as d
    on d.tenant_id = p.tenant_id and d.import_id = p.import_id
    and d.billing_period_start = p.billing_period_start
  where p.tenant_id = t.tenant_id) as c on true
left join lateral (
  select count(*) as findings from app.findings as f
  where f.tenant_id = t.tenant_id and f.state = 'open') as f on true
left join lateral (
  select count(*) as currencies, min(p.currency) as currency, min(p.saving) as saving
  from (select f.currency, sum(f.monthly_saving) as saving from app.findings as f
        where f.tenant_id = t.tenant_id and f.state = 'open' and f.monthly_saving is not null
        group by f.currency) as p) as s on true
left join lateral (
  select r.id, r.state, r.error_code from app.job_runs as r
  where r.tenant_id = t.tenant_id and r.kind = 'analysis' order by r.id desc limit 1) as r on true
left join lateral (
  select exists (select from app.job_runs as x
    where x.tenant_id = t.tenant_id and (x.slot is not null or x.kind = 'analysis')
      and x.state in ('PENDING', 'RUNNING', 'FAILED')) as live) as l on true
left join app.analyses as a on a.tenant_id = t.tenant_id and a.id = r.id
left join lateral (
  select trim_scale(sum(v.estimated_cost_nanousd) * 0.000000001) as reserved,
         trim_scale(sum(v.cost_nanousd) * 0.000000001) as settled
  from app.llm_reservations as v
  where v.tenant_id = t.tenant_id and v.run_id = r.id and v.status <> 'RELEASED') as m on true
left join lateral (
  select min(trim_scale((coalesce(g.limit_nanousd, 'infinity'::numeric)
           - coalesce(p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd, 0))
           * 0.000000001)) as left_usd
  from app.llm_budgets as g
  cross join lateral app_private.period_bounds(g.period, t.time_zone, now(), t.anchor_day) as e
  left join app.llm_budget_periods as p
    on p.tenant_id = g.tenant_id and p.budget_id = g.id and p.period_start = e.period_start
  where g.tenant_id = t.tenant_id and g.scope = 'tenant') as b on true
order by x.rank, t.name;

comment on view ops.report is
  'One line per tenant: cost lines and how many are flagged, open findings, what they could save a month, what the '
  'last analysis reserved and cost in US dollars, what is left of the tightest budget of the whole tenant (Infinity where '
  'it is unlimited), and how it ended: without names what had failed before it. running: an analysis is due or on its way. '
  'saving is null where unknown.';

grant select on ops.report to holdfast_ops;

set local role holdfast_owner;
