create or replace function ops.become(tenant text, reason text, minutes integer default 60)
returns table (tenant_id uuid, expires_at timestamptz, next text)
language plpgsql
security definer  -- the keys that sign a ticket are readable by the owner alone
set search_path = ''
as $$
declare
  v_tenant_id  constant uuid := app.tenant_find(tenant);
  v_expires_at constant timestamptz :=
    pg_catalog.date_trunc('second', pg_catalog.clock_timestamp()) + pg_catalog.make_interval(mins => minutes);
begin
  perform app_private.reason_check(reason);
  if minutes is null or minutes not between 1 and 480 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('minutes', minutes),
      hint    = 'Say for how long: 1 to 480 minutes.';
  end if;

  insert into ops.audit_log (action, subject, reason, after)
  values ('become', tenant, reason, pg_catalog.jsonb_build_object(
    'tenant_id', v_tenant_id, 'expires_at', v_expires_at, 'backend', pg_catalog.pg_backend_pid()));

  -- Kept in the session, so that it never stands in the text of a statement, which may be logged.
  perform pg_catalog.set_config('app.become_ticket',
    app_private.ticket_make(v_tenant_id, pg_catalog.pg_backend_pid(), v_expires_at), false);
  -- In the server's log as well: the row is gone when the transaction is rolled back, what was seen is not.
  raise log 'ops.become: % becomes tenant % until %: %', session_user, v_tenant_id, v_expires_at, reason;
  return query select v_tenant_id, v_expires_at, 'begin; select ops.enter(); select … from tenant.…; commit;';
end
$$;

comment on function ops.become is
  'Gives this session a ticket for a tenant, to see with ops.enter what the tenant sees; audited. The ticket is good for '
  'this connection alone and for that many minutes; connect directly, for a pooler would hand it on. Raises TN101, OP101, '
  'OP102.';

grant execute on function ops.become to holdfast_ops;
