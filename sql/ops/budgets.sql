set local role holdfast_system;

create or replace view ops.budgets as
select t.name as tenant, b.period, trim_scale(b.limit_nanousd / 1000000000.0) as limit_usd,
       trim_scale(coalesce(p.spent_nanousd, 0) / 1000000000.0) as spent_usd,
       trim_scale(coalesce(p.reserved_nanousd, 0) / 1000000000.0) as reserved_usd,
       trim_scale(coalesce(p.presumed_nanousd, 0) / 1000000000.0) as presumed_usd,
       trim_scale((b.limit_nanousd - coalesce(p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd, 0))
         / 1000000000.0) as left_usd,
       p.period_end, b.version
from app.llm_budgets as b
join app.tenants as t on t.tenant_id = b.tenant_id
left join app.llm_budget_periods as p
  on p.tenant_id = b.tenant_id and p.budget_id = b.id and p.period_start <= now() and p.period_end > now()
order by t.name, b.period;

comment on view ops.budgets is 'Every budget in its current period, in US dollars. Change one with ops.budget_set.';

grant select on ops.budgets to holdfast_ops;

set local role holdfast_owner;
