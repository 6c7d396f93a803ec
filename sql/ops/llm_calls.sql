set local role holdfast_system;

create or replace view ops.llm_calls as
select t.name as tenant, r.status, r.model,
       trim_scale(r.estimated_cost_nanousd * 0.000000001) as reserved_usd,
       case when r.cost_nanousd is not null or r.settled_nanousd > 0
         then trim_scale(r.settled_nanousd * 0.000000001) end as cost_usd,
       coalesce(u.input_tokens, (r.used ->> 'input')::bigint) as input_tokens,
       coalesce(u.output_tokens, (r.used ->> 'output')::bigint) as output_tokens,
       r.reason, u.simulated, r.created_at, r.run_id, r.id
from app.llm_reservations as r
join app.tenants as t on t.tenant_id = r.tenant_id
left join lateral (
  -- ADJUSTED, which comes after a PARTIAL, has all the tokens of the call.
  select l.input_tokens, l.output_tokens, l.simulated
  from app.llm_usage as l
  where l.tenant_id = r.tenant_id and l.reservation_id = r.id
  order by l.status
  limit 1) as u on true
order by r.id desc;

comment on view ops.llm_calls is
  'Every call to a model, newest first: what was held before it, and what it cost, or has cost so far where it streams.';

grant select on ops.llm_calls to holdfast_ops;

set local role holdfast_owner;
