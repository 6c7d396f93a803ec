create or replace function app_private.llm_reservation_replay(
  tenant_id uuid, idempotency_key text, fingerprint text) returns app.llm_reservations
language plpgsql
set search_path = ''
as $$
declare
  v_key         app.llm_reservation_keys;
  v_reservation app.llm_reservations;
begin
  select k.* into v_key
  from app.llm_reservation_keys as k
  where k.tenant_id = llm_reservation_replay.tenant_id
    and k.idempotency_key = llm_reservation_replay.idempotency_key;
  if not found then
    return null;
  end if;
  if v_key.fingerprint <> fingerprint then
    raise exception using
      errcode = 'LB103',
      message = 'idempotency_conflict',
      hint    = 'The key was used with another model or other bounds. Use a new key for a new request.';
  end if;
  select r.* into v_reservation
  from app.llm_reservations as r
  where r.tenant_id = v_key.tenant_id and r.id = v_key.reservation_id;
  return v_reservation;
end
$$;

comment on function app_private.llm_reservation_replay is
  'The reservation that this key made before, or null. Raises LB103 when it was made for another request.';
