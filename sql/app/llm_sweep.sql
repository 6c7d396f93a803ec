set local role holdfast_system;

create or replace function app.llm_sweep(max_rows integer default 20000) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_keys integer;
begin
  with old as materialized (
    select k.tenant_id, k.idempotency_key
    from app.llm_reservation_keys as k
    where k.created_at < pg_catalog.now() - interval '30 days'
    limit max_rows
    for no key update skip locked
  )
  delete from app.llm_reservation_keys as k
  using old as o
  where k.tenant_id = o.tenant_id and k.idempotency_key = o.idempotency_key;
  get diagnostics v_keys = row_count;
  return v_keys;
end
$$;

comment on function app.llm_sweep is
  'Removes the idempotency keys of reservations after 30 days, among all tenants, max_rows at a time; answers how many. The '
  'reservations stay.';

grant execute on function app.llm_sweep to holdfast_worker, holdfast_owner;

set local role holdfast_owner;
