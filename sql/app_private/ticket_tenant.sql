create or replace function app_private.ticket_tenant(ticket text) returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  v_part    text[];
  v_binding text;
begin
  -- No ticket of ours is longer than 137: what is, is not worth a hash.
  if ticket is null or pg_catalog.length(ticket) > 137 then
    perform app_private.refuse('the ticket is missing or malformed');
  end if;
  v_part := pg_catalog.string_to_array(ticket, '.');

  -- The signature comes first, and every part is compared as text: a pattern over the whole would cost twice as much
  -- as all the rest, and a cast would say what it could not read.
  select k.binding into v_binding
  from app_private.ticket_keys as k
  where k.kid::text = v_part[2]
    and (k.not_after is null or k.not_after > pg_catalog.clock_timestamp())
    and v_part[6] = pg_catalog.encode(pg_catalog.sha256(k.opad || pg_catalog.sha256(
      k.ipad || pg_catalog.convert_to(pg_catalog.left(ticket, -65), 'UTF8'))), 'hex');
  if v_binding is null
    or pg_catalog.cardinality(v_part) <> 6
    or v_part[1] <> 'v1'
    or v_part[4] not in ('0', pg_catalog.pg_backend_pid()::text)
    or v_part[5] !~ '^[0-9]{1,12}$'
  then
    perform app_private.refuse('the ticket is not valid');
  end if;

  if v_part[4] = '0' and v_binding <> 'none' then
    perform app_private.refuse('the ticket names no backend, and its key wants one');
  end if;
  -- Told apart, so that a clock that is wrong does not look like a forgery. A forger never gets this far.
  if pg_catalog.to_timestamp(v_part[5]::bigint) < pg_catalog.clock_timestamp() then
    perform app_private.refuse('the ticket has expired: is the clock of the caller right?');
  end if;

  return v_part[3];
end
$$;

comment on function app_private.ticket_tenant is
  'The tenant, as it is written, that a ticket v1.<kid>.<tenant>.<pid or 0>.<unix expiry>.<hmac-sha256> opens. '
  'Raises RL101.';
