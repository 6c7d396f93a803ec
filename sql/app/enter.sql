create or replace function app.enter(tenant_id uuid, ticket text) returns void
language plpgsql
security definer  -- the keys that verify a ticket are readable by the owner alone
set search_path = ''
as $$
declare
  v_before text := coalesce(pg_catalog.current_setting('app.tenant', true), '');
begin
  if app_private.ticket_tenant(ticket) is distinct from enter.tenant_id then
    perform app_private.refuse('the ticket is for another tenant');
  end if;
  -- A value without its seal is nobody's tenant: left by a session, it must not shut the connection to all others.
  if pg_catalog.left(v_before, 36) <> enter.tenant_id::text
    and pg_catalog.right(v_before, 64) = app_private.seal(pg_catalog.left(v_before, 36))
  then
    perform app_private.refuse('one transaction, one tenant');
  end if;

  perform
    pg_catalog.set_config('app.tenant',
      enter.tenant_id::text || '.' || app_private.seal(enter.tenant_id::text), true),
    pg_catalog.set_config('row_security', 'on', true);

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
