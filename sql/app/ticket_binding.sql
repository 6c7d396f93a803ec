create or replace function app.ticket_binding(kid integer) returns text
language plpgsql
stable
security definer  -- the keys that verify a ticket are readable by the owner alone
set search_path = ''
as $$
begin
  return (
    select k.binding
    from app_private.ticket_keys as k
    where k.kid = ticket_binding.kid
      and (k.not_after is null or k.not_after > pg_catalog.clock_timestamp()));
end
$$;

comment on function app.ticket_binding is
  'What the tickets of a key must name: backend, the one that they are good for, or none. Null for a key that is not '
  'there or is retired. A program asks once, at its start. Knows no tenant.';

grant execute on function app.ticket_binding to holdfast_service, holdfast_worker;
