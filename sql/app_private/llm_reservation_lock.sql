create or replace function app_private.llm_reservation_lock(
  tenant_id uuid, reservation_id uuid, of_client boolean default false)
returns app.llm_reservations
language plpgsql
set search_path = ''
as $$
declare
  v_reservation app.llm_reservations;
begin
  select r.* into v_reservation
  from app.llm_reservations as r
  where r.tenant_id = llm_reservation_lock.tenant_id and r.id = reservation_id
  for no key update;
  if not found or (of_client and v_reservation.run_id is not null) then
    raise exception using
      errcode = 'LB104',
      message = 'reservation_not_found',
      hint    = 'Use the id that llm_reserve answered, for the tenant that reserved it.';
  end if;
  return v_reservation;
end
$$;

comment on function app_private.llm_reservation_lock is
  'The reservation, locked. Raises LB104, alike for an absent and a foreign id, and of_client, which is '
  'what a client may end itself, for that of a run.';
