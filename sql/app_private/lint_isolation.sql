create or replace view app_private.lint_isolation as
with tenant_tables as (
  select c.oid, c.relispartition, c.relrowsecurity, c.relforcerowsecurity, a.attnum
  from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops')
  join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
  where c.relkind in ('r', 'p')
)
select 'table_not_isolated' as rule, t.oid::regclass::text as object
from tenant_tables as t
where not (t.relrowsecurity and t.relforcerowsecurity)
  or not exists (select from pg_catalog.pg_policy as p where p.polrelid = t.oid and p.polname = 'tenant_isolation')
union all
select 'policy_to_public', p.polrelid::regclass::text || ' ' || p.polname
from pg_catalog.pg_policy as p
join tenant_tables as t on t.oid = p.polrelid
where p.polroles = '{0}'
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
    select from generate_subscripts(k.conkey, 1) as n where k.conkey[n] = s.attnum and k.confkey[n] = t.attnum)
union all
select 'foreign_key_to_hot_counter', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
where k.contype = 'f' and k.confrelid = 'app.llm_budget_periods'::regclass
union all
select 'tenant_role_may_more_than_select', c.oid::regclass::text || ' ' || pg_catalog.pg_get_userbyid(x.grantee) || ' ' || x.privilege_type
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops')
cross join lateral pg_catalog.aclexplode(c.relacl) as x
where pg_catalog.pg_get_userbyid(x.grantee) in ('holdfast_tenant', 'holdfast_service', 'holdfast_worker')
  and (x.privilege_type <> 'SELECT' or c.relispartition)
union all
select 'view_hides_its_reader', c.oid::regclass::text
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops')
cross join lateral pg_catalog.aclexplode(c.relacl) as x
where c.relkind in ('v', 'm')
  and pg_catalog.pg_get_userbyid(x.grantee) = 'holdfast_tenant'
  and c.oid <> 'app.error_codes'::regclass
  and not coalesce(c.reloptions @> '{security_invoker=true,security_barrier=true}', false);

comment on view app_private.lint_isolation is 'Tables, keys, policies, grants and views that weaken tenant isolation.';
