create or replace function app_private.refuse(reason text) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'RL101',
    message = 'rls_enforcement_failed',
    detail  = pg_catalog.jsonb_build_object('reason', reason),
    hint    =
      'Enter first, with a fresh ticket for that tenant: app.enter(tenant_id, ticket); in psql ops.become, then ops.enter.';
end
$$;

comment on function app_private.refuse is
  'Raises RL101 rls_enforcement_failed. The reason never holds a tenant id or a part of a ticket.';
