create or replace function app_private.ticket_tenant(ticket text) returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  v_part    text[] := pg_catalog.string_to_array(ticket, '.');
  v_mac     bytea;
  v_binding text;
begin
  if ticket is null
    or ticket !~
      '^v1\.[0-9]{1,9}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[0-9]{1,9}\.[0-9]{1,12}\.[0-9a-f]{64}$'
  then
    perform app_private.refuse('the ticket is missing or malformed');
  end if;

  select pg_catalog.sha256(k.opad || pg_catalog.sha256(
           k.ipad || pg_catalog.convert_to(pg_catalog.left(ticket, -65), 'UTF8'))), k.binding
  into v_mac, v_binding
  from app_private.ticket_keys as k
  where k.kid = v_part[2]::integer
    and (k.not_after is null or k.not_after > pg_catalog.now());

  if v_mac is null
    or pg_catalog.encode(v_mac, 'hex') <> v_part[6]
    or v_part[4] not in ('0', pg_catalog.pg_backend_pid()::text)
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

  return v_part[3]::uuid;
end
$$;

comment on function app_private.ticket_tenant is
  'The tenant that a ticket v1.<kid>.<tenant>.<pid or 0>.<unix expiry>.<hmac-sha256> opens. Raises RL101.';
