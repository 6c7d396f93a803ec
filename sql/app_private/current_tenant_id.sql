create or replace function app_private.current_tenant_id() returns uuid
language plpgsql
stable
parallel restricted
security definer  -- the seal secret is readable by the owner alone
set search_path = ''
as $$
declare
  v_setting text := pg_catalog.current_setting('app.tenant', true);
begin
  if v_setting is null
    or pg_catalog.length(v_setting) <> 101
    or pg_catalog.right(v_setting, 64) <> app_private.seal(pg_catalog.left(v_setting, 36))
  then
    perform app_private.refuse('no tenant was entered in this transaction');
  end if;
  return pg_catalog.left(v_setting, 36)::uuid;
end
$$;

comment on function app_private.current_tenant_id is
  'The tenant of this transaction. Raises RL101 when none was entered. '
  'Never make a function that returns it immutable.';

grant execute on function app_private.current_tenant_id to holdfast_tenant, holdfast_owner, holdfast_system;
