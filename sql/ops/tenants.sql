set local role holdfast_system;

create or replace view ops.tenants as
select t.name as tenant, t.tier, t.status, t.time_zone, t.anchor_day, t.presumed_policy,
       t.presumed_after, t.sample, t.tenant_id, t.created_at
from app.tenants as t
join app.tiers as r on r.tier = t.tier
order by r.rank, t.name;

comment on view ops.tenants is 'Every tenant, by tier; when its months begin, and what becomes of its PRESUMED holds.';

grant select on ops.tenants to holdfast_ops;

set local role holdfast_owner;
