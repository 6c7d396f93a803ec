create or replace view app_private.doctor_extensions as
with untrusted as (
  select e.oid, e.extname
  from pg_catalog.pg_extension as e
  where e.extname not in ('plpgsql', 'btree_gist')  -- trusted: else files of the server are read each time
    and (
      select v.trusted from pg_catalog.pg_available_extension_versions as v
      where v.name = e.extname and v.version = e.extversion) is not true
), members as (
  select u.extname, d.classid, d.objid
  from untrusted as u
  join pg_catalog.pg_depend as d
    on d.refclassid = 'pg_extension'::regclass and d.refobjid = u.oid and d.deptype = 'e'
), objects as (
  select m.extname, 'execute on routine' as rights, p.oid::regprocedure::text as name,
         coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) as acl
  from members as m
  join pg_catalog.pg_proc as p on m.classid = 'pg_proc'::regclass and p.oid = m.objid
  union all
  select m.extname, 'all on table', c.oid::regclass::text,
         coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))
  from members as m
  join pg_catalog.pg_class as c
    on m.classid = 'pg_class'::regclass and c.oid = m.objid and c.relkind in ('r', 'p', 'v', 'm', 'f')
  union all
  select m.extname, 'usage on foreign data wrapper', pg_catalog.quote_ident(w.fdwname),
         coalesce(w.fdwacl, pg_catalog.acldefault('F', w.fdwowner))
  from members as m
  join pg_catalog.pg_foreign_data_wrapper as w
    on m.classid = 'pg_foreign_data_wrapper'::regclass and w.oid = m.objid
  union all
  -- No member of an extension, but what one is for: a way to another server.
  select 'a server', 'usage on foreign server', pg_catalog.quote_ident(s.srvname),
         coalesce(s.srvacl, pg_catalog.acldefault('S', s.srvowner))
  from pg_catalog.pg_foreign_server as s
), reached as (
  select distinct o.extname, o.rights, o.name,
         case when x.grantee = 0 then 'public' else x.grantee::regrole::text end as who
  from objects as o
  cross join app_private.doctor_exposed as e
  cross join lateral pg_catalog.aclexplode(o.acl) as x
  where x.grantee = 0 or pg_catalog.pg_has_role(e.oid, x.grantee, 'usage')
)
select 'extensions' as checked, 'warning' as state,
       pg_catalog.format('%s may use %s: %s (%s in all)', r.who, r.extname, min(r.name), count(*)) as found,
       pg_catalog.format('revoke %s %s from %s;',
         r.rights, string_agg(r.name, ', ' order by r.name), r.who) as fix
from reached as r
group by r.extname, r.rights, r.who;

comment on view app_private.doctor_extensions is
  'What a tenant''s SQL can reach of extensions that PostgreSQL does not trust, and of other servers.';

grant select on app_private.doctor_extensions to holdfast_ops;
