create or replace procedure app_private.fence(target regclass)
language plpgsql
set search_path = ''
as $$
declare
  v_name  constant name := (select c.relname from pg_catalog.pg_class as c where c.oid = target);
  v_fence constant regclass := pg_catalog.to_regclass(pg_catalog.format('tenant.%I', v_name));
begin
  -- Equal already: a re-run must not wait for the readers of the fence.
  if exists (
      select from pg_catalog.pg_class as c
      where c.oid = v_fence
        and c.reloptions = '{security_barrier=true}'
        and pg_catalog.pg_get_viewdef(c.oid) ~ '\sOFFSET 0;$'
        and pg_catalog.has_table_privilege('holdfast_tenant', c.oid, 'select'))
    and not pg_catalog.has_table_privilege('holdfast_tenant', target, 'select')
    and pg_catalog.obj_description(v_fence, 'pg_class')
      = 'Own rows. ' || pg_catalog.obj_description(target, 'pg_class')
    and (
      select pg_catalog.count(*) = 0
      from (select a.attname, a.atttypid from pg_catalog.pg_attribute as a
            where a.attrelid = v_fence and a.attnum > 0) as f
      full join (select a.attname, a.atttypid from pg_catalog.pg_attribute as a
                 where a.attrelid = target and a.attnum > 0 and not a.attisdropped) as t
        using (attname, atttypid)
      where f is null or t is null)
  then
    return;
  end if;

  -- OFFSET keeps what the reader asks for outside; the barrier keeps the statistics of all tenants from its estimates.
  execute pg_catalog.format(
    'create or replace view tenant.%I with (security_barrier = true) as select * from %s offset 0',
    v_name, target);
  execute pg_catalog.format('comment on view tenant.%I is %L', v_name,
    'Own rows. ' || pg_catalog.obj_description(target, 'pg_class'));
  execute pg_catalog.format('grant select on tenant.%I to holdfast_tenant', v_name);
  execute pg_catalog.format('revoke select on %s from holdfast_tenant', target);
end
$$;

comment on procedure app_private.fence is
  'Lets the tenant role read a table through tenant.<its name>, and no other way. Row security alone filters '
  'rows after a condition of the reader''s that is leakproof: with EXPLAIN, with a plan that outlives its tenant, or '
  'with an index that does not begin with the tenant, such a condition tells whether another tenant has a matching row. '
  'Behind the fence the rows of the tenant are taken first. Call it again after a column was added.';
