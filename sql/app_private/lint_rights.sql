create or replace view app_private.lint_rights as
with ours as (
  select n.oid, n.nspowner, n.nspacl, n.nspname
  from pg_catalog.pg_namespace as n
  where n.nspname in ('app', 'app_private', 'ops', 'tenant')
), grants as (
  select c.oid, x.privilege_type,
         n.nspname = 'tenant' or (n.nspname = 'app' and c.relname in (
           'error_codes', 'tiers', 'llm_prices', 'job_kinds', 'job_run_transitions')) as fenced,
         x.grantee = c.relowner as own, coalesce(r.rolname, 'public') as grantee
  from pg_catalog.pg_class as c
  join ours as n on n.oid = c.relnamespace
  cross join lateral (
    select a.grantee, a.privilege_type from pg_catalog.aclexplode(c.relacl) as a
    union
    select a.grantee, a.privilege_type
    from pg_catalog.pg_attribute as t cross join lateral pg_catalog.aclexplode(t.attacl) as a
    where t.attrelid = c.oid) as x
  left join pg_catalog.pg_roles as r on r.oid = x.grantee
)
-- The logins may touch no table, people and the tenant role may only read, and nobody may what everybody may.
select 'grant_unexpected' as rule,
       g.oid::regclass::text || ' ' || g.grantee || ' ' || g.privilege_type as object
from grants as g
where not g.own and (g.grantee = 'public'
  or (g.grantee in ('holdfast_service', 'holdfast_worker')
    and (g.oid, g.privilege_type) <> ('app.error_codes'::regclass, 'SELECT'))
  or (g.grantee not in ('holdfast_owner', 'holdfast_system') and g.privilege_type <> 'SELECT')
  or (g.grantee = 'holdfast_tenant' and not g.fenced)
  -- What row security does not filter: whole tables, and keys and triggers that look into them.
  or (g.grantee = 'holdfast_system'
    and g.privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN')))
union all
select 'schema_open', n.nspname || ' ' || coalesce(r.rolname, 'public') || ' ' || x.privilege_type
from ours as n
cross join lateral pg_catalog.aclexplode(n.nspacl) as x
left join pg_catalog.pg_roles as r on r.oid = x.grantee
where x.grantee = 0
  or (x.privilege_type = 'CREATE' and x.grantee <> n.nspowner and r.rolname <> 'holdfast_system')
union all
-- A publication sends rows past row security: never secrets, and never whatever comes.
select 'published_secret', p.pubname || ' all tables'
from pg_catalog.pg_publication as p
where p.puballtables
union all
select 'published_secret', t.pubname || ' ' || t.schemaname || '.' || t.tablename
from pg_catalog.pg_publication_tables as t
join pg_catalog.pg_publication as p on p.pubname = t.pubname and not p.puballtables
where t.schemaname = 'app_private'
union all
-- Without a list of rights, everybody has those that PostgreSQL gives by default.
select 'database_open_to_public', d.datname || ' ' || x.privilege_type
from pg_catalog.pg_database as d
cross join lateral pg_catalog.aclexplode(
  coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) as x
where d.datname = pg_catalog.current_database() and x.grantee = 0;

comment on view app_private.lint_rights is
  'Rights on tables, schemas and the database that weaken tenant isolation, and publications that send secrets.';
