set local role holdfast_system;

create or replace function app.llm_presumed_resolve(max_rows integer default 500)
returns table (tenant_id uuid, reservation_id uuid, status text)
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
  -- One by one, and nothing is waited for, as in app.llm_expire.
  for v_due in select d.tenant_id, d.id, d.policy from app_private.llm_presumed_due(max_rows) as d loop
    select r.* into v_held
    from app.llm_reservations as r
    where r.tenant_id = v_due.tenant_id and r.id = v_due.id and r.status = 'PRESUMED'
    for no key update skip locked;
    continue when not found or not app_private.llm_periods_lock(v_due.tenant_id, v_due.id);

    if v_due.policy = 'release_after' then
      perform app_private.llm_written_off(v_held, 'policy: release_after');
      status := 'WRITTEN_OFF';
    else
      perform app_private.llm_charged_whole(v_held);
      status := 'APPLIED';
    end if;
    tenant_id := v_due.tenant_id;
    reservation_id := v_due.id;
    return next;
  end loop;
end
$$;

comment on function app.llm_presumed_resolve is
  'Ends PRESUMED holds as the policy of their tenant says (app.tenants.presumed_policy), among all tenants, max_rows at a '
  'time; answers which, and how. What is locked is left for the next time.';

grant execute on function app.llm_presumed_resolve to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
