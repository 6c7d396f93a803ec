create or replace function app_private.ticket_key_missing(kid integer) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'TK101',
    message = 'ticket_key_not_found',
    detail  = pg_catalog.jsonb_build_object('kid', kid),
    hint    = 'select * from ops.ticket_keys lists them. A new one comes with npm run db:migrate.';
end
$$;

comment on function app_private.ticket_key_missing is 'Raises TK101: no ticket key has that number.';
