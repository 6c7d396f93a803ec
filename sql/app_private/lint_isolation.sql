create or replace view app_private.lint_isolation as
with tenant_tables as (
  select c.oid, c.relispartition, c.relrowsecurity, c.relforcerowsecurity, a.attnum
  from pg_catalog.pg_class as c
  -- In whatever schema: what has the column is a tenant's.
  join pg_catalog.pg_namespace as n
    on n.oid = c.relnamespace and n.nspname !~ '^(pg_|information_schema$|graphile_)'
  join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
  where c.relkind in ('r', 'p')
)
select 'table_not_isolated' as rule, t.oid::regclass::text as object
from tenant_tables as t
where not (t.relrowsecurity and t.relforcerowsecurity)
  or not exists (
    select from pg_catalog.pg_policy as p where p.polrelid = t.oid and p.polname = 'tenant_isolation')
union all
-- Permissive policies are OR-ed, so one more of them opens the table: only what isolate makes may stand.
select 'policy_unexpected', p.polrelid::regclass::text || ' ' || p.polname
from pg_catalog.pg_policy as p
join tenant_tables as t on t.oid = p.polrelid
cross join lateral (
  select array(select r.rolname::text from pg_catalog.pg_roles as r
               where r.oid = any (p.polroles) order by r.rolname) as roles,
         replace(pg_catalog.pg_get_expr(p.polqual, p.polrelid), 'app_private.', '') as qual,
         replace(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), 'app_private.', '') as with_check,
         '(require() AND (tenant_id = ( SELECT current_tenant_id() AS current_tenant_id)))' as own) as x
where (p.polname::text, p.polcmd, p.polpermissive, x.roles, x.qual, x.with_check) is distinct from
    ('tenant_isolation', '*', true, array['holdfast_owner', 'holdfast_tenant'], x.own, x.own)
  and (p.polname::text, p.polcmd, p.polpermissive, x.roles, x.qual, x.with_check) is distinct from
    ('system_all', '*', true, array['holdfast_system'], 'true', null)
union all
select 'table_without_tenant', c.oid::regclass::text
from pg_catalog.pg_class as c
where c.relnamespace = 'app'::regnamespace
  and c.relkind in ('r', 'p')
  and c.oid not in (select t.oid from tenant_tables as t)
  and c.relname not in ('tiers', 'plans', 'schedules', 'retentions', 'llm_prices', 'job_kinds',
    'job_run_transitions', 'job_workers')
union all
-- A number that all tenants draw from tells each how busy the others are.
select 'sequence_shared', c.oid::regclass::text
from pg_catalog.pg_class as c
where c.relnamespace = 'app'::regnamespace and c.relkind = 'S'
union all
select 'unique_key_without_tenant', i.indexrelid::regclass::text
from pg_catalog.pg_index as i
join tenant_tables as t on t.oid = i.indrelid
-- The names of tenants are unique among all tenants: only functions of ops read or write them.
where i.indisunique and i.indkey[0] <> t.attnum and i.indexrelid <> 'app.tenants_name_once'::regclass
union all
select 'foreign_key_without_tenant', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
join tenant_tables as s on s.oid = k.conrelid
join tenant_tables as t on t.oid = k.confrelid
where k.contype = 'f'
  and not exists (
    select from generate_subscripts(k.conkey, 1) as n
    where k.conkey[n] = s.attnum and k.confkey[n] = t.attnum)
union all
select 'foreign_key_to_hot_counter', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
where k.contype = 'f' and k.confrelid = 'app.llm_budget_periods'::regclass
union all
-- Row security binds an owner only while it is forced, and a superuser never.
select 'owner_unexpected', c.oid::regclass::text || ' ' || pg_catalog.pg_get_userbyid(c.relowner)
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n
  on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
where c.relkind in ('r', 'p', 'v', 'm', 'S', 'c')
  and (pg_catalog.pg_get_userbyid(c.relowner) not in ('holdfast_owner', 'holdfast_system')
    or (c.relkind in ('r', 'p') and pg_catalog.pg_get_userbyid(c.relowner) <> 'holdfast_owner'))
union all
select 'owner_unexpected', p.oid::regprocedure::text || ' ' || pg_catalog.pg_get_userbyid(p.proowner)
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n
  on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
where pg_catalog.pg_get_userbyid(p.proowner) not in ('holdfast_owner', 'holdfast_system')
union all
-- The tenant role reads through fences: of a table itself, its conditions would be tried on the rows of all tenants.
select 'fence_open', c.oid::regclass::text
from pg_catalog.pg_class as c
where c.relnamespace = 'tenant'::regnamespace
  and not (c.relkind = 'v'
    and coalesce(c.reloptions = '{security_barrier=true}', false)
    and pg_catalog.pg_get_viewdef(c.oid) ~ '\sOFFSET 0;$')
  -- A view that reads as its reader comes to the fences, and no further.
  and not (c.relkind = 'v'
    and coalesce(c.reloptions @> '{security_invoker=true,security_barrier=true}', false));

comment on view app_private.lint_isolation is
  'Tables, keys, policies, owners and views that weaken tenant isolation.';
