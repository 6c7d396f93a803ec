create or replace view app_private.doctor_languages as
with reached as (
  select l.lanname, x.grantee, e.rolname
  from pg_catalog.pg_language as l
  cross join app_private.doctor_exposed as e
  cross join lateral pg_catalog.aclexplode(
    coalesce(l.lanacl, pg_catalog.acldefault('l', l.lanowner))) as x
  where l.lanpltrusted and l.lanname <> 'sql'
    and pg_catalog.has_language_privilege(e.oid, l.oid, 'usage')
    and (x.grantee = 0 or pg_catalog.pg_has_role(e.oid, x.grantee, 'usage'))
), grantees as (
  select distinct r.lanname, case when r.grantee = 0 then 'public' else r.grantee::regrole::text end as who
  from reached as r
)
select 'languages' as checked, 'warning' as state,
       pg_catalog.format('%s may write %s', g.who, g.lanname) as found,
       pg_catalog.format(
         E'revoke usage on language %1$I from %2$s;\n'
         'grant usage on language %1$I to holdfast_owner, holdfast_system, holdfast_admin;',
         g.lanname, g.who) as fix
from grantees as g
union all
select 'languages', 'fault', pg_catalog.format('%s may no longer write plpgsql', k.name),
       pg_catalog.format('grant usage on language plpgsql to %s;', k.name)
from (values ('holdfast_owner'), ('holdfast_system'), ('holdfast_admin')) as k (name)
join pg_catalog.pg_roles as r on r.rolname = k.name
where not pg_catalog.has_language_privilege(r.oid, 'plpgsql', 'usage');

comment on view app_private.doctor_languages is
  'Languages in which a tenant''s SQL could write a program of its own, with DO, or owners no longer can.';

grant select on app_private.doctor_languages to holdfast_ops;
