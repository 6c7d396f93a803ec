create or replace view app_private.schema_snapshot as
with relations as (
  select c.oid, c.relkind, c.reltype, c.relowner, c.relacl, c.reloptions, c.relrowsecurity,
         c.relforcerowsecurity
  from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n
    on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
  where c.relkind in ('r', 'p', 'v', 'm', 'c', 'S')
    and not c.relispartition  -- partitions depend on the day they were made
)
select 'relation' as kind, r.oid::regclass::text as name,
       concat_ws(' ', r.relkind, r.relowner::regrole, r.reloptions, r.relrowsecurity, r.relforcerowsecurity,
         pg_catalog.pg_get_partkeydef(r.oid),
         case when r.relkind in ('v', 'm') then pg_catalog.pg_get_viewdef(r.oid) end,
         (select string_agg(x::text, ' ' order by x::text) from unnest(r.relacl) as x),
         (select string_agg(x::text, ' ' order by x::text)
          from pg_catalog.pg_type as t cross join lateral unnest(t.typacl) as x where t.typrelid = r.oid),
         pg_catalog.obj_description(r.oid, 'pg_class'),
         case when r.relkind = 'c' then pg_catalog.obj_description(r.reltype, 'pg_type') end) as definition
from relations as r
union all
select 'column', r.oid::regclass::text || '.' || a.attname,
       concat_ws(' ', n.place, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated,
         a.attidentity, a.attstorage, a.attacl,
         pg_catalog.pg_get_expr(d.adbin, d.adrelid), pg_catalog.col_description(r.oid, a.attnum))
from relations as r
join pg_catalog.pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
-- Its place among the columns that are there: those that were dropped keep their numbers.
cross join lateral (
  select count(*) as place from pg_catalog.pg_attribute as x
  where x.attrelid = r.oid and x.attnum between 1 and a.attnum and not x.attisdropped) as n
union all
select 'constraint', r.oid::regclass::text || ' ' || k.conname, pg_catalog.pg_get_constraintdef(k.oid)
from relations as r
join pg_catalog.pg_constraint as k on k.conrelid = r.oid and k.contype <> 'n'
union all
select 'index', i.indexrelid::regclass::text,
       concat_ws(' ', i.indisvalid, pg_catalog.pg_get_indexdef(i.indexrelid))
from relations as r
join pg_catalog.pg_index as i on i.indrelid = r.oid
union all
select 'trigger', r.oid::regclass::text || ' ' || t.tgname,
       concat_ws(' ', t.tgenabled, pg_catalog.pg_get_triggerdef(t.oid))
from relations as r
join pg_catalog.pg_trigger as t on t.tgrelid = r.oid and not t.tgisinternal
union all
select 'policy', r.oid::regclass::text || ' ' || p.polname,
       concat_ws(' ', p.polcmd, p.polpermissive, p.polroles::regrole[],
         pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
from relations as r
join pg_catalog.pg_policy as p on p.polrelid = r.oid
union all
select 'function', p.oid::regprocedure::text,
       concat_ws(' ', p.proowner::regrole, pg_catalog.pg_get_functiondef(p.oid),
         (select string_agg(x::text, ' ' order by x::text) from unnest(p.proacl) as x),
         pg_catalog.obj_description(p.oid, 'pg_proc'))
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n
  on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
where p.prokind <> 'a'
union all
select 'default_privileges',
       concat_ws(' ', d.defaclrole::regrole, nullif(d.defaclnamespace, 0)::regnamespace, d.defaclobjtype),
       (select string_agg(x::text, ' ' order by x::text) from unnest(d.defaclacl) as x)
from pg_catalog.pg_default_acl as d
where pg_catalog.pg_get_userbyid(d.defaclrole) in ('holdfast_owner', 'holdfast_system')
union all
select 'schema', n.nspname,
       concat_ws(' ', n.nspowner::regrole,
         (select string_agg(x::text, ' ' order by x::text) from unnest(n.nspacl) as x),
         pg_catalog.obj_description(n.oid, 'pg_namespace'))
from pg_catalog.pg_namespace as n
where n.nspname in ('app', 'app_private', 'ops', 'tenant');

comment on view app_private.schema_snapshot is
  'Everything that the files of sql/ and the migrations must agree on, as text: columns, constraints, indexes, '
  'functions with their settings, triggers, policies, owners and grants.';
