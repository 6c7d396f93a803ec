set local role holdfast_system;

create or replace view ops.cost_sources as
select t.name as tenant, s.source, s.path, s.version, s.last_import_at, i.status as last_import,
       i.line_count as rows, i.flagged_count as flagged, s.created_at, s.last_digest, s.last_import_id
from app.cost_sources as s
join app.tenants as t on t.tenant_id = s.tenant_id
left join app.cost_imports as i on i.tenant_id = s.tenant_id and i.id = s.last_import_id
order by t.name, s.source;

comment on view ops.cost_sources is
  'Where each tenant''s cost files are found by the workers, and what was last imported from there: rows is null before the '
  'first time.';

grant select on ops.cost_sources to holdfast_ops;

set local role holdfast_owner;
