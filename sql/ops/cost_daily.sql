set local role holdfast_system;

create or replace view ops.cost_daily as
select t.name as tenant, d.day, d.provider_name as provider, d.sub_account_id as sub_account,
       d.service_name as service, d.region_id as region, d.charge_category as category, d.correction,
       d.billing_currency as cur, d.effective_cost, d.billed_cost, d.line_count as lines,
       d.flagged_count as flagged
from app.cost_periods as p
join app.cost_daily as d
  on d.tenant_id = p.tenant_id
  and d.import_id = p.import_id
  and d.billing_period_start = p.billing_period_start
join app.tenants as t on t.tenant_id = p.tenant_id;

comment on view ops.cost_daily is
  'What every tenant''s published lines cost, by UTC day and dimension: what the detectors read. The query of a finding''s '
  'evidence reads it.';

grant select on ops.cost_daily to holdfast_ops;

set local role holdfast_owner;
