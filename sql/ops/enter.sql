create or replace function ops.enter() returns text
language plpgsql
set search_path = ''
as $$
declare
  v_ticket    constant text := pg_catalog.current_setting('app.become_ticket', true);
  v_tenant_id uuid;
  v_name      text;
begin
  if v_ticket is null or v_ticket !~ '^v1\.[0-9]+\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.' then
    raise exception using
      errcode = 'RL101',
      message = 'rls_enforcement_failed',
      detail  = pg_catalog.jsonb_build_object('reason', 'this session has no ticket'),
      hint    = 'Once per session: select * from ops.become(tenant => …, reason => …);';
  end if;

  v_tenant_id := pg_catalog.split_part(v_ticket, '.', 3)::uuid;
  perform app.enter(v_tenant_id, v_ticket);
  select t.tenant into v_name from ops.tenants as t where t.tenant_id = v_tenant_id;
  -- Ends with the transaction, as what app.enter set does.
  perform pg_catalog.set_config('role', 'holdfast_tenant', true);
  if pg_catalog.transaction_timestamp() = pg_catalog.statement_timestamp() then
    raise warning 'this ends with its transaction: say begin first';
  end if;
  return v_name;
end
$$;

comment on function ops.enter is
  'Enters the tenant of ops.become for the rest of this transaction, as the tenant role, and answers its name: until the '
  'commit there is only tenant.*, what the tenant sees. Raises RL101 without a ticket, or with one that has expired.';

grant execute on function ops.enter to holdfast_ops;
