create or replace view app_private.doctor_functions as
with groups as materialized (
  select g.checked, g.state, g.kept_for, g.oid, g.acl from app_private.doctor_function_groups as g
), reached as (
  select g.checked, g.state, g.kept_for, g.oid, e.rolname, x.grantee, x.grantee in (0, e.oid) as directly
  from groups as g
  cross join app_private.doctor_exposed as e
  cross join lateral pg_catalog.aclexplode(g.acl) as x
  where pg_catalog.has_function_privilege(e.oid, g.oid, 'execute')
    and (x.grantee = 0 or pg_catalog.pg_has_role(e.oid, x.grantee, 'usage'))
), counted as (
  select r.checked, r.state, r.kept_for, r.grantee, r.directly,
         case when r.grantee = 0 then 'public' else r.rolname end as who,
         count(distinct r.oid) as functions, min(r.oid::regprocedure::text) as example,
         string_agg(distinct r.oid::regprocedure::text, E',\n  ') as list
  from reached as r
  group by 1, 2, 3, 4, 5, 6
), keepers as (
  select g.checked, k.name, g.oid
  from groups as g
  cross join lateral pg_catalog.string_to_table(g.kept_for, ', ') as k (name)
  join pg_catalog.pg_roles as r on r.rolname = k.name
  where not pg_catalog.has_function_privilege(r.oid, g.oid, 'execute')
)
select c.checked, c.state,
       pg_catalog.format('%s may call %s (%s in all)', c.who, c.example, c.functions) as found,
       case
         when not c.directly then pg_catalog.format('revoke %s from %s;', c.grantee::regrole, c.who)
         else pg_catalog.format('revoke execute on function %s from %s;', c.list, c.who)
           || coalesce(E'\ngrant execute on function ' || c.list || ' to ' || k.roles || ';', '')
       end as fix
from counted as c
-- Whoever must keep them, of the roles that are here.
cross join lateral (
  select string_agg(r.name, ', ') as roles
  from pg_catalog.string_to_table(c.kept_for, ', ') as r (name)
  where pg_catalog.to_regrole(r.name) is not null) as k
union all
select k.checked, 'fault',
       pg_catalog.format('%s may no longer call %s (%s in all)', k.name,
         min(k.oid::regprocedure::text), count(*)),
       pg_catalog.format('grant execute on function %s to %s;',
         string_agg(k.oid::regprocedure::text, E',\n  '), k.name)
from keepers as k
group by k.checked, k.name;

comment on view app_private.doctor_functions is
  'Functions of PostgreSQL that a tenant''s SQL can still call, or that whoever needs them no longer can.';

grant select on app_private.doctor_functions to holdfast_ops;
