set local role holdfast_system;

create or replace function app.llm_expire(max_rows integer default 500)
returns table (tenant_id uuid, reservation_id uuid, run_id uuid)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
set row_security = on
as $$
declare
  v_due  record;
  v_held app.llm_reservations;
begin
  -- One by one, and nothing is waited for: a tenant that keeps a row locked must not stop the others. As one statement
  -- with "skip locked" twice it crashed PostgreSQL 18.4 within a minute of 24 callers.
  for v_due in select e.tenant_id, e.id from app_private.llm_expired(max_rows) as e loop
    select r.* into v_held
    from app.llm_reservations as r
    where r.tenant_id = v_due.tenant_id and r.id = v_due.id and r.status = 'RESERVED'
      and r.expires_at < pg_catalog.clock_timestamp()  -- nobody has extended it meanwhile
    for no key update skip locked;
    continue when not found or not app_private.llm_periods_lock(v_due.tenant_id, v_due.id);

    update app.llm_reservations as r
    set status = 'PRESUMED', reason = 'expired', presumed_at = pg_catalog.clock_timestamp()
    where r.tenant_id = v_due.tenant_id and r.id = v_due.id;
    return query select v_due.tenant_id, v_due.id, v_held.run_id;
  end loop;
end
$$;

comment on function app.llm_expire is
  'Turns holds past their time into PRESUMED, among all tenants, max_rows at a time; answers which. It only '
  'tidies: an expired hold counts the same before and after. What is locked is left for the next time.';

grant execute on function app.llm_expire to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
