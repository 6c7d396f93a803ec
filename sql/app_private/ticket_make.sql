create or replace function app_private.ticket_make(tenant_id uuid, pid integer, expires_at timestamptz)
returns text
language plpgsql
set search_path = ''
as $$
declare
  v_key  app_private.ticket_keys;
  v_body text;
begin
  select k.* into v_key
  from app_private.ticket_keys as k
  where k.not_after is null or k.not_after >= expires_at
  order by k.not_after nulls first, k.kid desc
  limit 1;
  if not found then
    perform app_private.refuse('no ticket key is in use');
  end if;

  v_body := pg_catalog.format('v1.%s.%s.%s.%s',
    v_key.kid, tenant_id, pid, pg_catalog.floor(extract(epoch from expires_at)));
  return v_body || '.' || pg_catalog.encode(pg_catalog.sha256(v_key.opad || pg_catalog.sha256(
    v_key.ipad || pg_catalog.convert_to(v_body, 'UTF8'))), 'hex');
end
$$;

comment on function app_private.ticket_make is
  'A ticket for one backend, signed by the newest key in use, as src/tickets.ts makes them. Only for ops.become: no role '
  'may execute it. Raises RL101 when no key lasts that long.';
