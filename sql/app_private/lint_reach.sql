create or replace view app_private.lint_reach as
with schemas as (
  -- All but PostgreSQL's own and that of its extensions.
  select n.oid, n.nspname, n.nspname in ('app', 'app_private', 'ops', 'tenant') as ours
  from pg_catalog.pg_namespace as n
  where n.nspname !~ '^(pg_|information_schema$|public$)'
)
select 'reach_beyond_ticket' as rule, r.rolname || ' ' || p.oid::regprocedure as object
from app_private.doctor_exposed as r
cross join schemas as s
join pg_catalog.pg_proc as p on p.pronamespace = s.oid
where pg_catalog.has_schema_privilege(r.oid, s.oid, 'usage')
  and pg_catalog.has_function_privilege(r.oid, p.oid, 'execute')
  and not (s.ours and pg_catalog.has_function_privilege('public', p.oid, 'execute'))  -- in lint_functions
  and coalesce(p.proargnames[1:2], '{}') <> '{tenant_id,ticket}'
  and s.nspname || '.' || p.proname not in (
    'app.ticket_check', 'app.ticket_binding', 'app.migration_applied',
    'app_private.current_tenant_id', 'app_private.require')
union all
-- Tables of ours are in lint_rights.
select 'reach_beyond_ticket', r.rolname || ' ' || c.oid::regclass
from app_private.doctor_exposed as r
cross join schemas as s
join pg_catalog.pg_class as c on c.relnamespace = s.oid and c.relkind in ('r', 'p', 'v', 'm', 'f')
where not s.ours
  and pg_catalog.has_schema_privilege(r.oid, s.oid, 'usage')
  and pg_catalog.has_table_privilege(r.oid, c.oid, 'select, insert, update, delete, truncate')
union all
select 'reach_beyond_ticket', r.rolname || ' is a member of ' || m.rolname
from app_private.doctor_exposed as r
join pg_catalog.pg_roles as m
  on m.oid <> r.oid and m.rolname <> 'holdfast_tenant' and pg_catalog.pg_has_role(r.oid, m.oid, 'member')
union all
-- Of our own roles only the service may, and people; what these may else is theirs, so it is not listed.
select 'reach_beyond_ticket', r.rolname || ' may become holdfast_tenant'
from pg_catalog.pg_roles as r
where r.rolname in (
    'holdfast_worker', 'holdfast_admin', 'holdfast_owner', 'holdfast_system', 'holdfast_metrics')
  and pg_catalog.pg_has_role(r.oid, 'holdfast_tenant', 'member');

comment on view app_private.lint_reach is
  'What SQL that is not ours could reach without a ticket: as the tenant role, or back in a login that becomes it.';
