create or replace view app_private.doctor_rights as
with relations as (
  select c.oid, n.nspname, c.oid::regclass::text as name, c.relowner, c.relacl
  from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    and n.nspname !~ '^(pg_toast|pg_temp|information_schema$)'
    -- Of PostgreSQL's own, the catalog is for everybody; what holds values and passwords is not.
    and (n.nspname <> 'pg_catalog' or c.relname ~ '^pg_(authid|shadow|statistic|statistic_ext_data'
      '|largeobject|user_mapping|hba_file_rules|ident_file_mappings|file_settings)$')
    and not exists (  -- in doctor_extensions
      select from pg_catalog.pg_depend as d where d.objid = c.oid and d.deptype = 'e')
), rights as (
  select r.oid, r.nspname, r.name, x.grantee, x.privilege_type
  from relations as r
  cross join lateral pg_catalog.aclexplode(coalesce(r.relacl, pg_catalog.acldefault('r', r.relowner))) as x
  union
  select r.oid, r.nspname, r.name, x.grantee, x.privilege_type
  from relations as r
  join pg_catalog.pg_attribute as a on a.attrelid = r.oid and a.attacl is not null
  cross join lateral pg_catalog.aclexplode(a.attacl) as x
)
select distinct 'table_rights' as checked, 'fault' as state,
       pg_catalog.format('%s may %s %s', w.who, r.privilege_type, r.name) as found,
       pg_catalog.format('revoke %s on table %s from %s;', r.privilege_type, r.name, w.who) as fix
from rights as r
join app_private.doctor_exposed as e on r.grantee = 0 or pg_catalog.pg_has_role(e.oid, r.grantee, 'usage')
cross join lateral (
  select case when r.grantee = 0 then 'public' else r.grantee::regrole::text end as who) as w
where not (r.privilege_type = 'SELECT' and (r.name = 'app.error_codes'
  or (w.who = 'holdfast_tenant' and (r.nspname = 'tenant' or r.name in (
    'app.tiers', 'app.llm_prices', 'app.job_kinds', 'app.job_run_transitions')))))
union all
-- A function that lends its owner's rights. Ours are in the lint, those of extensions in their own check.
select distinct 'definer_functions', 'fault',
       pg_catalog.format('%s may act as %s with %s', w.who, p.proowner::regrole, p.oid::regprocedure),
       pg_catalog.format('revoke execute on routine %s from %s;', p.oid::regprocedure, w.who)
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n on n.oid = p.pronamespace and n.nspname not in ('app', 'app_private', 'ops')
cross join lateral pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) as x
join app_private.doctor_exposed as e on x.grantee = 0 or pg_catalog.pg_has_role(e.oid, x.grantee, 'usage')
cross join lateral (
  select case when x.grantee = 0 then 'public' else x.grantee::regrole::text end as who) as w
where p.prosecdef
  and not exists (select from pg_catalog.pg_depend as d where d.objid = p.oid and d.deptype = 'e');

comment on view app_private.doctor_rights is
  'Tables, and functions that lend their owner''s rights, that a tenant''s SQL can reach and should not.';

grant select on app_private.doctor_rights to holdfast_ops;
