create or replace view app_private.doctor_places as
with exposed as (
  select e.oid, e.rolname from app_private.doctor_exposed as e
), schemas as (
  select n.nspname, x.grantee, x.privilege_type
  from pg_catalog.pg_namespace as n
  cross join lateral pg_catalog.aclexplode(
    coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) as x
  where n.nspname !~ '^pg_(toast|temp)'
), rights as (
  select d.datname, x.grantee, x.privilege_type
  from pg_catalog.pg_database as d
  cross join lateral pg_catalog.aclexplode(
    coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) as x
  where d.datname = pg_catalog.current_database()
)
select distinct 'schema_rights' as checked, 'fault' as state,
       pg_catalog.format('%s has %s on %s', w.who, s.privilege_type, s.nspname) as found,
       pg_catalog.format('revoke %s on schema %I from %s;', s.privilege_type, s.nspname, w.who) as fix
from schemas as s
join exposed as e on s.grantee = 0 or pg_catalog.pg_has_role(e.oid, s.grantee, 'usage')
cross join lateral (
  select case when s.grantee = 0 then 'public' else s.grantee::regrole::text end as who) as w
where s.privilege_type = 'CREATE' or s.nspname in ('ops', 'graphile_worker', 'graphile_migrate')
union all
select distinct 'database_rights', 'fault',
       pg_catalog.format('%s has %s', w.who, r.privilege_type),
       pg_catalog.format('revoke %s on database %I from %s;', r.privilege_type, r.datname, w.who)
from rights as r
left join exposed as e on pg_catalog.pg_has_role(e.oid, nullif(r.grantee, 0), 'usage')
cross join lateral (
  select case when r.grantee = 0 then 'public' else r.grantee::regrole::text end as who) as w
where r.grantee = 0 or (e.oid is not null and r.privilege_type <> 'CONNECT')
union all
-- Named, for what everybody may is taken away.
select case when l.name = 'holdfast_backup' then 'backup_role' else 'database_rights' end, 'fault',
       l.name || ' may not connect',
       pg_catalog.format('grant connect on database %I to %s;', pg_catalog.current_database(), l.name)
from (values ('holdfast_admin'), ('holdfast_service'), ('holdfast_worker'), ('holdfast_ops'),
  ('holdfast_metrics'), ('holdfast_backup')) as l (name)
where pg_catalog.to_regrole(l.name) is not null
  and not exists (
    select from rights as r
    where r.grantee = pg_catalog.to_regrole(l.name) and r.privilege_type = 'CONNECT')
union all
select distinct 'parameter_rights', 'fault',
       pg_catalog.format('%s may %s %s', w.who, x.privilege_type, p.parname),
       pg_catalog.format('revoke %s on parameter %s from %s;', x.privilege_type, p.parname, w.who)
from pg_catalog.pg_parameter_acl as p
cross join lateral pg_catalog.aclexplode(p.paracl) as x
join exposed as e on x.grantee = 0 or pg_catalog.pg_has_role(e.oid, x.grantee, 'usage')
cross join lateral (
  select case when x.grantee = 0 then 'public' else x.grantee::regrole::text end as who) as w;

comment on view app_private.doctor_places is
  'The database, its schemas and its parameters: who may connect, make objects, set what is a superuser''s.';

grant select on app_private.doctor_places to holdfast_ops;
