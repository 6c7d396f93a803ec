create or replace function app_private.llm_admit(
  tenant_id uuid, reservation_id uuid, amount_nanousd bigint, at timestamptz)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_held     integer;
  v_admitted integer;
begin
  insert into app.llm_reservation_budgets (tenant_id, reservation_id, budget_id, period_start)
  select llm_admit.tenant_id, llm_admit.reservation_id, o.budget_id, o.period_start
  from app_private.llm_budget_periods_open(llm_admit.tenant_id, at) as o;
  get diagnostics v_held = row_count;

  -- Locked in key order, so that two calls that hold several budgets cannot deadlock; tested and changed in one statement.
  with held as (
    select p.tenant_id, p.budget_id, p.period_start
    from app.llm_reservation_budgets as h
    join app.llm_budget_periods as p
      on p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start
    where h.tenant_id = llm_admit.tenant_id and h.reservation_id = llm_admit.reservation_id
    order by p.budget_id
    for no key update of p
  )
  update app.llm_budget_periods as p
  set reserved_nanousd = p.reserved_nanousd + amount_nanousd,
      admitted_limit_nanousd = greatest(p.admitted_limit_nanousd, b.limit_nanousd)
  from held as h
  join app.llm_budgets as b on b.tenant_id = h.tenant_id and b.id = h.budget_id
  where p.tenant_id = h.tenant_id
    and p.budget_id = h.budget_id
    and p.period_start = h.period_start
    and b.limit_nanousd > 0
    and p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd + amount_nanousd <= b.limit_nanousd;
  get diagnostics v_admitted = row_count;

  return v_held > 0 and v_admitted = v_held;
end
$$;

comment on function app_private.llm_admit is
  'Holds the amount in every budget of the tenant; false when it does not fit them all, '
  'and then the caller must raise.';
