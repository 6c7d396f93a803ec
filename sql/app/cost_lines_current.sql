create or replace view app.cost_lines_current with (security_invoker = true, security_barrier = true) as
select l.*
from app.cost_periods as p
join app.cost_lines as l
  on l.tenant_id = p.tenant_id
  and l.import_id = p.import_id
  and l.billing_period_start = p.billing_period_start;

comment on view app.cost_lines_current is 'The lines that count now: those of published periods.';
