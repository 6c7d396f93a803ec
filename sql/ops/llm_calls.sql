set local role holdfast_system;

create or replace view ops.llm_calls as
select t.name as tenant, r.status, r.model,
       trim_scale(r.estimated_cost_nanousd / 1000000000.0) as reserved_usd,
       trim_scale(r.cost_nanousd / 1000000000.0) as cost_usd, u.input_tokens, u.output_tokens, r.reason,
       u.simulated, r.created_at, r.run_id, r.id
from app.llm_reservations as r
join app.tenants as t on t.tenant_id = r.tenant_id
left join app.llm_usage as u on u.tenant_id = r.tenant_id and u.reservation_id = r.id
order by r.id desc;

comment on view ops.llm_calls is 'Every call to a model, newest first: what was held before it and what it cost.';

grant select on ops.llm_calls to holdfast_ops;

set local role holdfast_owner;
