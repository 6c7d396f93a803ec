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
           sum(app_private.llm_rest(r, 'RESERVED')) as reserved,
           sum(app_private.llm_rest(r, 'PRESUMED')) as presumed,
           sum(r.settled_nanousd) as spent,
           -- What came to light when the hold had ended came on top.
           sum(a.late + greatest(0, r.settled_nanousd - a.late - r.estimated_cost_nanousd)) as over
    from app.llm_reservation_budgets as h
    join app.llm_reservations as r on r.tenant_id = h.tenant_id and r.id = h.reservation_id
    cross join lateral (
      select coalesce(sum(u.cost_nanousd), 0) as late
      from app.llm_usage as u
      where u.tenant_id = r.tenant_id and u.reservation_id = r.id and u.status = 'ADJUSTED') as a
    group by h.tenant_id, h.budget_id, h.period_start
  ),
  pairs as (
    select coalesce(p.tenant_id, s.tenant_id) as tenant_id, coalesce(p.budget_id, s.budget_id) as budget_id,
           p.period_start, s.reserved, s.presumed, s.spent, s.over, b.unlimited, p
    from app.llm_budget_periods as p
    full join sums as s
      on s.tenant_id = p.tenant_id and s.budget_id = p.budget_id and s.period_start = p.period_start
    left join app.llm_budgets as b on b.tenant_id = p.tenant_id and b.id = p.budget_id
  )
  select 'counters_equal_reservations', x.tenant_id, to_jsonb(x)
  from pairs as x
  where ((x.p).reserved_nanousd, (x.p).presumed_nanousd, (x.p).spent_nanousd)
    is distinct from (coalesce(x.reserved, 0), coalesce(x.presumed, 0), coalesce(x.spent, 0))
  union all
  select 'never_over_the_limit', x.tenant_id, to_jsonb(x)
  from pairs as x
  where (x.p).reserved_nanousd + (x.p).presumed_nanousd + (x.p).spent_nanousd
    > (x.p).admitted_limit_nanousd + coalesce(x.over, 0) and not x.unlimited
  union all
  select 'reservation_holds_a_budget', r.tenant_id, to_jsonb(r)
  from app.llm_reservations as r
  where not exists (
    select from app.llm_reservation_budgets as h where h.tenant_id = r.tenant_id and h.reservation_id = r.id)
  union all
  select case r.status when 'WRITTEN_OFF' then 'what_is_spent_has_usage' else 'applied_has_one_usage' end,
         r.tenant_id, to_jsonb(r)
  from app.llm_reservations as r
  left join lateral (
    select count(*) filter (where u.status = 'SETTLED') as rows, coalesce(sum(u.cost_nanousd), 0) as cost
    from app.llm_usage as u
    where u.tenant_id = r.tenant_id and u.reservation_id = r.id) as x on true
  where x.rows <> (r.status = 'APPLIED')::integer
    or (r.closed_at is not null and x.cost <> r.settled_nanousd)
  union all
  select 'usage_has_a_reservation', u.tenant_id, to_jsonb(u)
  from app.llm_usage as u
  where not exists (
    select from app.llm_reservations as r where r.tenant_id = u.tenant_id and r.id = u.reservation_id);
end
$$;

comment on function app.llm_check is
  'Every broken invariant of the budget, among all tenants; no row when all is sound. Counters equal the reservations; '
  'spent + reserved + presumed is at most the limit plus recorded over-runs; each settled call has one usage row, and what '
  'is spent has usage.';

grant execute on function app.llm_check to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
