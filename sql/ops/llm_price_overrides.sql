set local role holdfast_system;

create or replace view ops.llm_price_overrides as
select t.name as tenant, o.provider, o.model, o.unit, o.usd_per_million, o.factor,
       lower(o.valid) as since, o.id
from app.llm_price_overrides as o
join app.tenants as t on t.tenant_id = o.tenant_id
where o.valid @> now()
order by t.name, o.provider, o.model, o.unit;

comment on view ops.llm_price_overrides is
  'What tenants pay instead of app.llm_prices; an empty model or unit is every one. Change one with '
  'ops.llm_price_override_set.';

grant select on ops.llm_price_overrides to holdfast_ops;

set local role holdfast_owner;
