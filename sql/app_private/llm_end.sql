create or replace function app_private.llm_end(
  tenant_id uuid, reservation_id uuid, to_status text, reason text, of_client boolean default false)
returns table (id uuid, status text)
language plpgsql
set search_path = ''
as $$
declare
  v_held app.llm_reservations;
begin
  v_held := app_private.llm_reservation_lock(tenant_id, reservation_id, of_client);

  -- What a stream has settled was billed.
  if to_status = 'RELEASED' and v_held.status = 'RESERVED' and v_held.settled_nanousd > 0 then
    perform app_private.llm_closed(v_held);
  end if;
  if v_held.status <> to_status then
    update app.llm_reservations as r
    set status = to_status,
        reason = pg_catalog.left(llm_end.reason, 200),
        presumed_at = case when to_status = 'PRESUMED'
          then pg_catalog.clock_timestamp() else r.presumed_at end,
        closed_at = case when to_status = 'RELEASED' then pg_catalog.clock_timestamp() end
    where r.tenant_id = v_held.tenant_id and r.id = v_held.id;
  end if;

  return query select v_held.id, to_status;
end
$$;

comment on function app_private.llm_end is
  'Ends a hold without a cost, RELEASED or PRESUMED, once. Raises LB104, and LB201 also by the transition trigger.';
