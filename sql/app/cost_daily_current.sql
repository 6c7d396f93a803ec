create or replace view app.cost_daily_current with (security_invoker = true, security_barrier = true) as
select d.*
from app.cost_periods as p
join app.cost_daily as d
  on d.tenant_id = p.tenant_id
  and d.import_id = p.import_id
  and d.billing_period_start = p.billing_period_start;

comment on view app.cost_daily_current is 'The daily sums that count now: those of published periods.';
