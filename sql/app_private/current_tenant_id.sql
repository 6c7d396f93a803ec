create or replace function app_private.current_tenant_id() returns uuid
language plpgsql
stable
parallel restricted
security definer  -- the seal secret is readable by the owner alone
set search_path = ''
as $$
declare
  v_setting text := pg_catalog.current_setting('app.tenant', true);
  v_tenant  text := pg_catalog.left(v_setting, 36);
  v_secret  bytea;
begin
  -- No statement may use the secret: its plan could hold it, and debug_print_plan would print it.
  select s.secret into v_secret from app_private.seal_secret as s;

  if (v_setting = v_tenant || '.' || app_private.seal(v_secret, v_tenant)) is not true then
    perform app_private.refuse('no tenant was entered in this transaction');
  end if;
  return v_tenant::uuid;
end
$$;

comment on function app_private.current_tenant_id is
  'The tenant of this transaction. Raises RL101 when none was entered. Runs once for each table of each statement. '
  'Never make a function that returns it immutable.';

grant execute on function app_private.current_tenant_id to holdfast_tenant, holdfast_owner, holdfast_system;
