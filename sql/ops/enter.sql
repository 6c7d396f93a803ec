create or replace function ops.enter() returns uuid
language plpgsql
set search_path = ''
as $$
declare
  v_ticket    constant text := pg_catalog.current_setting('app.become_ticket', true);
  v_tenant_id uuid;
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
  -- Ends with the transaction, as what app.enter set does.
  perform pg_catalog.set_config('role', 'holdfast_tenant', true);
  return v_tenant_id;
end
$$;

comment on function ops.enter is
  'Enters the tenant of ops.become for the rest of this transaction, as the tenant role: every statement then sees what '
  'the tenant sees, and no more. Raises RL101 without a ticket, or with one that has expired.';

grant execute on function ops.enter to holdfast_ops;
