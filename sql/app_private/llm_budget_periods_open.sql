create or replace function app_private.llm_budget_periods_open(tenant_id uuid, at timestamptz)
returns table (budget_id uuid, period_start timestamptz)
language plpgsql
set search_path = ''
as $$
begin
  insert into app.llm_budget_periods as p (tenant_id, budget_id, period_start, period_end)
  select b.tenant_id, b.id, s.period_start, s.period_end
  from app.llm_budgets as b
  join app.tenants as t on t.tenant_id = b.tenant_id
  cross join lateral app_private.period_bounds(b.period, t.time_zone, at) as s
  where b.tenant_id = llm_budget_periods_open.tenant_id
    and not exists (
      select from app.llm_budget_periods as x
      where x.tenant_id = b.tenant_id and x.budget_id = b.id and x.period_start = s.period_start)
  order by b.id
  on conflict on constraint llm_budget_periods_pkey do nothing;

  return query
  select b.id, s.period_start
  from app.llm_budgets as b
  join app.tenants as t on t.tenant_id = b.tenant_id
  cross join lateral app_private.period_bounds(b.period, t.time_zone, at) as s
  where b.tenant_id = llm_budget_periods_open.tenant_id
  order by b.id;
end
$$;

comment on function app_private.llm_budget_periods_open is
  'The period rows that a call at this moment must fit, made where they are missing, '
  'in the order in which they are locked.';
