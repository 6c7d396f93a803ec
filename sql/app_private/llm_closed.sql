create or replace function app_private.llm_closed(held app.llm_reservations) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'LB201',
    message = 'reservation_closed',
    detail  = pg_catalog.jsonb_build_object('reservation_id', held.id, 'status', held.status),
    hint    = 'A reservation ends once. What it cost is in app.llm_usage.';
end
$$;

comment on function app_private.llm_closed is 'Raises LB201: the reservation has ended in another way.';

grant execute on function app_private.llm_closed to holdfast_system;
