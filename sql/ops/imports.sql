set local role holdfast_system;

create or replace view ops.imports as
select t.name as tenant, i.status, i.file_name, i.source, i.line_count as lines, i.flagged_count as flagged,
       i.flags, i.error, i.started_at, i.finished_at, i.id
from app.cost_imports as i
join app.tenants as t on t.tenant_id = i.tenant_id
order by i.id desc;

comment on view ops.imports is
  'Every cost file that was read, newest first: its data-quality flags, or why it was refused.';

grant select on ops.imports to holdfast_ops;

set local role holdfast_owner;
