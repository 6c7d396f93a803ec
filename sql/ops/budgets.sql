set local role holdfast_system;

create or replace view ops.budgets as
select t.name as tenant, b.scope, b.scope_id, b.period,
       trim_scale(b.limit_nanousd * 0.000000001) as limit_usd,
       trim_scale(coalesce(p.spent_nanousd, 0) * 0.000000001) as spent_usd,
       trim_scale(coalesce(p.reserved_nanousd, 0) * 0.000000001) as reserved_usd,
       trim_scale(coalesce(p.presumed_nanousd, 0) * 0.000000001) as presumed_usd,
       trim_scale((b.limit_nanousd - coalesce(p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd, 0))
         * 0.000000001) as left_usd,
       b.hard and not b.unlimited as hard_limit, nullif(s.period_end, 'infinity') as period_end, b.version,
       case when b.period = 'month' then trim_scale(b.limit_nanousd * 0.000000001) end as monthly_limit_usd,
       case when b.period = 'month' then trim_scale(coalesce(p.spent_nanousd, 0) * 0.000000001) end
         as current_month_usage_usd,
       b.created_at, b.updated_at
from app.llm_budgets as b
join app.tenants as t on t.tenant_id = b.tenant_id
cross join lateral app_private.period_bounds(b.period, t.time_zone, now(), t.anchor_day) as s
left join app.llm_budget_periods as p
  on p.tenant_id = b.tenant_id and p.budget_id = b.id and p.period_start = s.period_start
order by t.name, b.scope <> 'tenant', b.scope, b.scope_id, b.period;

comment on view ops.budgets is
  'Every budget in the period that runs now, in US dollars; left = limit - spent - reserved - presumed, below zero after a cut. '
  'An unlimited budget refuses nothing: its limit and what is left are null, and hard_limit is false. total has no end. '
  'monthly_limit_usd and current_month_usage_usd (what is spent) are the same numbers under other names, for months '
  'alone. Change one with ops.set_limit.';

grant select on ops.budgets to holdfast_ops;

set local role holdfast_owner;

-- Functions of a view run as who asks, not as who owns it.
grant execute on function app_private.period_bounds, app_private.period_begin, app_private.month_anchor
  to holdfast_ops;
