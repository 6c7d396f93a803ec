create or replace procedure app_private.isolate(target regclass, for_system boolean default false)
language plpgsql
set search_path = ''
as $$
declare
  v_own      constant text := '(app_private.require() AND (tenant_id = '
    '( SELECT app_private.current_tenant_id() AS current_tenant_id)))';
  v_expected constant text[] :=
    case when for_system then array['system_all to holdfast_system: true'] else '{}' end
    || ('tenant_isolation to holdfast_owner,holdfast_tenant: ' || v_own || ' check ' || v_own);
  v_present  text[];
  v_policy   name;
begin
  select pg_catalog.array_agg(pg_catalog.format('%s to %s: %s%s%s', p.polname,
           (select pg_catalog.string_agg(r.rolname, ',' order by r.rolname)
            from pg_catalog.pg_roles as r where r.oid = any (p.polroles)),
           pg_catalog.pg_get_expr(p.polqual, p.polrelid),
           ' check ' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid),
           case when p.polcmd <> '*' or not p.polpermissive then ' for less' end) order by p.polname)
  into v_present
  from pg_catalog.pg_class as c
  join pg_catalog.pg_policy as p on p.polrelid = c.oid
  where c.oid = target and c.relrowsecurity and c.relforcerowsecurity;

  -- Equal already: a re-run must not lock a hot table.
  if v_present is not distinct from v_expected then
    return;
  end if;

  execute pg_catalog.format('alter table %s enable row level security, force row level security', target);
  -- Policies are OR-ed: one that is not ours would open the table.
  for v_policy in select p.polname from pg_catalog.pg_policy as p where p.polrelid = target loop
    execute pg_catalog.format('drop policy %I on %s', v_policy, target);
  end loop;
  execute pg_catalog.format(
    'create policy tenant_isolation on %s to holdfast_owner, holdfast_tenant using %s with check %s',
    target, v_own, v_own);
  if for_system then
    execute pg_catalog.format('create policy system_all on %s to holdfast_system using (true)', target);
  end if;
end
$$;

comment on procedure app_private.isolate is
  'Puts tenant isolation on a table with a column tenant_id: row security, forced, for the owner and the tenant '
  'role; with for_system also the policy for functions that see all tenants. Does nothing when it is in place.';

grant execute on procedure app_private.isolate to holdfast_system;
