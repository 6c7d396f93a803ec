set local role holdfast_system;

create or replace function app.job_sweep(max_rows integer default 20000) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_slots integer;
  v_keys  integer;
begin
  with old as materialized (
    select s.tenant_id, s.kind, s.slot
    from app.job_slots as s
    where s.slot < extract(epoch from pg_catalog.now() - interval '2 days')::bigint
      -- The scheduler reads the last one of each tenant and kind.
      and exists (
        select from app.job_slots as n
        where n.tenant_id = s.tenant_id and n.kind = s.kind and n.slot > s.slot)
    order by s.slot
    limit max_rows
    for no key update of s skip locked
  )
  delete from app.job_slots as s
  using old as o
  where s.tenant_id = o.tenant_id and s.kind = o.kind and s.slot = o.slot;
  get diagnostics v_slots = row_count;

  with old as materialized (
    select k.tenant_id, k.idempotency_key
    from app.job_run_keys as k
    where k.created_at < pg_catalog.now() - interval '30 days'
    order by k.created_at
    limit max_rows
    for no key update skip locked
  )
  delete from app.job_run_keys as k
  using old as o
  where k.tenant_id = o.tenant_id and k.idempotency_key = o.idempotency_key;
  get diagnostics v_keys = row_count;
  return v_slots + v_keys;
end
$$;

comment on function app.job_sweep is
  'Removes the slots of more than two days ago but for the last of each tenant and kind, and the idempotency keys of runs '
  'after 30 days, among all tenants, max_rows of each at a time; answers how many. Never a row of app.job_gates: who claims '
  'looks a gate up and then locks it, and one that vanished in between would hold nobody back; there is one for each tenant '
  'and kind at most.';

grant execute on function app.job_sweep to holdfast_worker, holdfast_owner;

set local role holdfast_owner;
