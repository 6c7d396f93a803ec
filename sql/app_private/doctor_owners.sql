create or replace view app_private.doctor_owners as
with schemas as (
  select n.oid, n.nspname, n.nspowner, n.nspname in ('graphile_worker', 'graphile_migrate') as theirs
  from pg_catalog.pg_namespace as n
  where n.nspname in ('app', 'app_private', 'ops', 'tenant', 'graphile_worker', 'graphile_migrate')
), owned as (
  select 'database' as kind, pg_catalog.quote_ident(d.datname) as name, d.datdba as owner
  from pg_catalog.pg_database as d
  where d.datname = pg_catalog.current_database()
  union all
  select 'schema', pg_catalog.quote_ident(s.nspname), s.nspowner
  from schemas as s
  union all
  select case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end,
         c.oid::regclass::text, c.relowner
  from schemas as s
  join pg_catalog.pg_class as c on c.relnamespace = s.oid
  where c.relkind in ('r', 'p')
    or (s.theirs and c.relkind in ('S', 'v') and not exists (  -- a column's own sequence goes with its table
      select from pg_catalog.pg_depend as d where d.objid = c.oid and d.deptype in ('a', 'i')))
  union all
  select 'routine', p.oid::regprocedure::text, p.proowner
  from schemas as s
  join pg_catalog.pg_proc as p on p.pronamespace = s.oid
  where s.theirs
)
-- Row security binds holdfast_owner because it is forced, and would bind no superuser. Views and functions of
-- ours are in the lint: some of them belong to holdfast_system.
select 'owners' as checked, 'fault' as state,
       pg_catalog.format('%s %s belongs to %s', o.kind, o.name, pg_catalog.pg_get_userbyid(o.owner)) as found,
       pg_catalog.format('alter %s %s owner to holdfast_owner;', o.kind, o.name) as fix
from owned as o
where pg_catalog.pg_get_userbyid(o.owner) <> 'holdfast_owner';

comment on view app_private.doctor_owners is
  'The database, schemas, tables, objects of the queue and the migrations that are not holdfast_owner''s.';

grant select on app_private.doctor_owners to holdfast_ops;
