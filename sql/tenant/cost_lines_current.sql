create or replace view tenant.cost_lines_current with (security_invoker = true, security_barrier = true) as
select l.*
from tenant.cost_periods as p
join tenant.cost_lines as l
  on l.import_id = p.import_id
  and l.billing_period_start = p.billing_period_start;

comment on view tenant.cost_lines_current is 'Own rows. The lines that count now: those of published periods.';

grant select on tenant.cost_lines_current to holdfast_tenant;
