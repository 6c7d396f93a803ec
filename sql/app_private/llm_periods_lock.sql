create or replace function app_private.llm_periods_lock(tenant_id uuid, reservation_id uuid) returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_hold record;
begin
  for v_hold in
    select h.budget_id, h.period_start
    from app.llm_reservation_budgets as h
    join app.llm_budgets as b on b.tenant_id = h.tenant_id and b.id = h.budget_id
    where h.tenant_id = llm_periods_lock.tenant_id and h.reservation_id = llm_periods_lock.reservation_id
    order by b.scope = 'tenant', h.budget_id, h.period_start
  loop
    perform from app.llm_budget_periods as p
    where p.tenant_id = llm_periods_lock.tenant_id
      and p.budget_id = v_hold.budget_id
      and p.period_start = v_hold.period_start
    for no key update skip locked;
    if not found then
      return false;
    end if;
  end loop;
  return true;
end
$$;

comment on function app_private.llm_periods_lock is
  'Locks the counters of every budget that a reservation is held in, or answers false when another has one of them: '
  'nothing is waited for.';

grant execute on function app_private.llm_periods_lock to holdfast_system;
