create or replace function app.enter(tenant_id uuid, ticket text) returns void
language plpgsql
security definer  -- the keys that verify a ticket are readable by the owner alone
set search_path = ''
as $$
declare
  v_before text := pg_catalog.current_setting('app.tenant', true);
  v_tenant text := enter.tenant_id::text;
  v_secret bytea;
begin
  if app_private.ticket_tenant(ticket)::text is distinct from v_tenant then
    perform app_private.refuse('the ticket is for another tenant');
  end if;

  select s.secret into v_secret from app_private.seal_secret as s;

  -- A value without its seal is nobody's tenant: left by a session, it must not shut the connection to all others.
  if v_before <> ''
    and pg_catalog.left(v_before, 36) <> v_tenant
    and v_before = pg_catalog.left(v_before, 36) || '.'
      || app_private.seal(v_secret, pg_catalog.left(v_before, 36))
  then
    perform app_private.refuse('one transaction, one tenant');
  end if;

  -- No statement may use the secret: its plan could hold it, and debug_print_plan would print it.
  if pg_catalog.set_config(
      'app.tenant', v_tenant || '.' || app_private.seal(v_secret, v_tenant), true) is null
    or pg_catalog.set_config('row_security', 'on', true) is null
    -- The plans of what follows are made with the statistics of all tenants.
    or pg_catalog.set_config('debug_print_plan', 'off', true) is null
  then
    perform app_private.refuse('the tenant could not be set');
  end if;

  if not exists (select from app.tenants as t
    where t.tenant_id = enter.tenant_id and t.status = 'ACTIVE')
  then
    perform app_private.refuse('the tenant is not active');
  end if;
end
$$;

comment on function app.enter is
  'Verifies the ticket and makes the tenant the one of this transaction. Raises RL101 for a ticket that is malformed, '
  'forged, expired or of another tenant, for a second tenant, and for a tenant that is not active.';

grant execute on function app.enter to holdfast_service, holdfast_worker, holdfast_tenant, holdfast_ops;
