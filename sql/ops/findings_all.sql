set local role holdfast_system;

create or replace view ops.findings_all as
select t.name as tenant, f.rank, f.severity, f.monthly_saving as saving, f.currency as cur,
       app_private.render(f.headline, f.slots) as headline, f.detector, f.confidence, f.state,
       app_private.render(f.why, f.slots) as why, f.narrated_by, f.evidence, f.first_seen_at, f.last_seen_at,
       f.resolved_at, f.id
from app.findings as f
join app.tenants as t on t.tenant_id = f.tenant_id
order by array_position(array['critical', 'high', 'medium', 'low', 'info'], f.severity),
         f.monthly_saving desc nulls last, t.name, f.rank;

comment on view ops.findings_all is
  'Every finding of every tenant in whatever state, what has ended too. ops.findings shows those that stand.';

grant select on ops.findings_all to holdfast_ops;

set local role holdfast_owner;
