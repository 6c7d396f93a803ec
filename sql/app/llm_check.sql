set local role holdfast_system;

create or replace function app.llm_check() returns table (invariant text, tenant_id uuid, facts jsonb)
language plpgsql
stable
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
begin
  return query
  with sums as (
    select h.tenant_id, h.budget_id, h.period_start,
           coalesce(sum(r.estimated_cost_nanousd) filter (where r.status = 'RESERVED'), 0) as reserved,
           coalesce(sum(r.estimated_cost_nanousd) filter (where r.status = 'PRESUMED'), 0) as presumed,
           coalesce(sum(r.cost_nanousd), 0) as spent,
           coalesce(sum(greatest(0, r.cost_nanousd - r.estimated_cost_nanousd)), 0) as over
    from app.llm_reservation_budgets as h
    join app.llm_reservations as r on r.tenant_id = h.tenant_id and r.id = h.reservation_id
    group by h.tenant_id, h.budget_id, h.period_start
  ),
  pairs as (
    select coalesce(p.tenant_id, s.tenant_id) as tenant_id, coalesce(p.budget_id, s.budget_id) as budget_id,
           p.period_start, s.reserved, s.presumed, s.spent, s.over, p
    from app.llm_budget_periods as p
    full join sums as s
      on s.tenant_id = p.tenant_id and s.budget_id = p.budget_id and s.period_start = p.period_start
  )
  select 'counters_equal_reservations', x.tenant_id, to_jsonb(x)
  from pairs as x
  where ((x.p).reserved_nanousd, (x.p).presumed_nanousd, (x.p).spent_nanousd)
    is distinct from (coalesce(x.reserved, 0), coalesce(x.presumed, 0), coalesce(x.spent, 0))
  union all
  select 'never_over_the_limit', x.tenant_id, to_jsonb(x)
  from pairs as x
  where (x.p).reserved_nanousd + (x.p).presumed_nanousd + (x.p).spent_nanousd
    > (x.p).admitted_limit_nanousd + coalesce(x.over, 0)
  union all
  select 'reservation_holds_a_budget', r.tenant_id, to_jsonb(r)
  from app.llm_reservations as r
  where not exists (
    select from app.llm_reservation_budgets as h where h.tenant_id = r.tenant_id and h.reservation_id = r.id)
  union all
  select 'applied_has_one_usage', r.tenant_id, to_jsonb(r)
  from app.llm_reservations as r
  left join lateral (
    select count(*) as rows, sum(u.cost_nanousd) as cost
    from app.llm_usage as u
    where u.tenant_id = r.tenant_id and u.reservation_id = r.id) as x on true
  where (x.rows, x.cost) is distinct from ((r.status = 'APPLIED')::integer, r.cost_nanousd)
  union all
  select 'usage_has_a_reservation', u.tenant_id, to_jsonb(u)
  from app.llm_usage as u
  where not exists (
    select from app.llm_reservations as r where r.tenant_id = u.tenant_id and r.id = u.reservation_id);
end
$$;

comment on function app.llm_check is
  'Every broken invariant of the budget, among all tenants; no row when all is sound. Counters equal the reservations; '
  'spent + reserved + presumed is at most the limit plus recorded over-runs; each settled call has one usage row.';

grant execute on function app.llm_check to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
