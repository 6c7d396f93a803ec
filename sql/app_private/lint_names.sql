create or replace view app_private.lint_names as
with relations as (
  select c.oid, c.relkind, c.relname
  from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n
    on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
  where c.relkind in ('r', 'p', 'v', 'm') and not c.relispartition
)
select 'missing_comment' as rule, r.oid::regclass::text as object
from relations as r
where pg_catalog.obj_description(r.oid, 'pg_class') is null
union all
select 'missing_comment', r.oid::regclass::text || '.' || a.attname
from relations as r
join pg_catalog.pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
where r.relkind in ('r', 'p') and pg_catalog.col_description(r.oid, a.attnum) is null
union all
select 'missing_comment', p.oid::regprocedure::text
from pg_catalog.pg_namespace as n
cross join lateral (  -- the schemas first: the description of each is another look
  select p.oid from pg_catalog.pg_proc as p where p.pronamespace = n.oid offset 0) as p
where n.nspname in ('app', 'app_private', 'ops', 'tenant')
  and pg_catalog.obj_description(p.oid, 'pg_proc') is null
union all
-- The name of a constraint is what a person reads when it is broken.
select 'constraint_named_by_postgres', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
join relations as r on r.oid = k.conrelid
where (k.contype = 'c' and k.conname ~ '_check[0-9]*$')
  or (k.contype in ('u', 'x') and k.conname ~ '_(key|excl)[0-9]*$')
union all
select 'foreign_key_without_index', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
join relations as r on r.oid = k.conrelid
where k.contype = 'f'
  and not exists (
    select from pg_catalog.pg_index as i
    where i.indrelid = k.conrelid and i.indpred is null
      and (string_to_array(i.indkey::text, ' ')::smallint[])[1:cardinality(k.conkey)] @> k.conkey)
union all
select 'foreign_key_without_on_delete', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
join relations as r on r.oid = k.conrelid
where k.contype = 'f' and k.confdeltype = 'a';

comment on view app_private.lint_names is
  'Objects without a comment, constraints without a name of ours, foreign keys without index or on delete.';
