create or replace view tenant.cost_daily_current with (security_invoker = true, security_barrier = true) as
select d.*
from tenant.cost_periods as p
join tenant.cost_daily as d
  on d.import_id = p.import_id
  and d.billing_period_start = p.billing_period_start;

comment on view tenant.cost_daily_current is 'Own rows. The daily sums that count now: those of published periods.';

grant select on tenant.cost_daily_current to holdfast_tenant;
