create or replace procedure app_private.fence(target regclass)
language plpgsql
set search_path = ''
as $$
declare
  v_name constant name := (select c.relname from pg_catalog.pg_class as c where c.oid = target);
begin
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
