set local role holdfast_system;

create or replace view ops.findings as
select t.name as tenant, f.rank, f.severity, f.monthly_saving as saving, f.currency as cur,
       app_private.render(f.headline, f.slots) as headline, f.detector, f.confidence, f.state,
       app_private.render(f.why, f.slots) as why, f.narrated_by, f.evidence, f.first_seen_at, f.last_seen_at,
       f.id
from app.findings as f
join app.tenants as t on t.tenant_id = f.tenant_id
order by t.name, f.rank;

comment on view ops.findings is 'What the detectors found, for every tenant, best first.';

grant select on ops.findings to holdfast_ops;

set local role holdfast_owner;
