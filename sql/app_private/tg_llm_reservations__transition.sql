create or replace function app_private.tg_llm_reservations__transition() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if old.status is distinct from new.status
    and (old.status, new.status) not in (
      ('RESERVED', 'APPLIED'), ('RESERVED', 'RELEASED'), ('RESERVED', 'PRESUMED'),
      ('PRESUMED', 'APPLIED'), ('PRESUMED', 'WRITTEN_OFF'))
  then
    raise exception using
      errcode = 'LB201',
      message = 'reservation_closed',
      detail  = pg_catalog.jsonb_build_object('reservation_id', old.id, 'status', old.status,
                  'wanted', new.status),
      hint    = 'A reservation ends once. What it cost is in app.llm_usage.';
  end if;
  if new.estimated_cost_nanousd <> old.estimated_cost_nanousd or new.price_ids <> old.price_ids then
    raise exception using
      errcode = 'LB201',
      message = 'reservation_closed',
      detail  = pg_catalog.jsonb_build_object('reservation_id', old.id, 'status', old.status),
      hint    = 'The amount and the prices of a hold never change.';
  end if;
  return new;
end
$$;

comment on function app_private.tg_llm_reservations__transition is
  'Refuses any change of state that the life of a reservation does not have, whoever asks. Raises LB201.';

create or replace trigger _100_transition
  before update on app.llm_reservations
  for each row execute function app_private.tg_llm_reservations__transition();
