create or replace function app_private.tg_llm_reservations__moved() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  -- In the order of app_private.llm_asks_periods, so that nothing that holds several budgets can deadlock.
  with counted as (
    select n.tenant_id, n.id, app_private.llm_rest(n, 'RESERVED') as reserved,
           app_private.llm_rest(n, 'PRESUMED') as presumed, n.settled_nanousd as spent
    from new_rows as n
    union all
    select o.tenant_id, o.id, - app_private.llm_rest(o, 'RESERVED'), - app_private.llm_rest(o, 'PRESUMED'),
           - o.settled_nanousd
    from old_rows as o
  ),
  changed as materialized (
    select c.tenant_id, c.id, sum(c.reserved) as reserved, sum(c.presumed) as presumed, sum(c.spent) as spent
    from counted as c
    group by c.tenant_id, c.id
    having (sum(c.reserved), sum(c.presumed), sum(c.spent)) <> (0, 0, 0)
  ),
  moves as (
    select h.tenant_id, h.budget_id, h.period_start,
           sum(c.reserved) as reserved, sum(c.presumed) as presumed, sum(c.spent) as spent
    from changed as c
    join app.llm_reservation_budgets as h on h.tenant_id = c.tenant_id and h.reservation_id = c.id
    group by h.tenant_id, h.budget_id, h.period_start
  ),
  locked as (
    select p.tenant_id, p.budget_id, p.period_start, m.reserved, m.presumed, m.spent
    from moves as m
    join app.llm_budgets as b on b.tenant_id = m.tenant_id and b.id = m.budget_id
    join app.llm_budget_periods as p
      on p.tenant_id = m.tenant_id and p.budget_id = m.budget_id and p.period_start = m.period_start
    order by p.tenant_id, b.scope = 'tenant', p.budget_id, p.period_start
    for no key update of p
  )
  update app.llm_budget_periods as p
  set reserved_nanousd = p.reserved_nanousd + l.reserved,
      presumed_nanousd = p.presumed_nanousd + l.presumed,
      spent_nanousd = p.spent_nanousd + l.spent
  from locked as l
  where p.tenant_id = l.tenant_id and p.budget_id = l.budget_id and p.period_start = l.period_start;
  return null;
end
$$;

comment on function app_private.tg_llm_reservations__moved is
  'Moves what a hold counts as, whoever changes it: out of reserved or presumed, into presumed or spent, in each budget and '
  'in the period in which it was reserved, also when that period is over.';

create or replace trigger _200_moved
  after update on app.llm_reservations
  referencing old table as old_rows new table as new_rows
  for each statement execute function app_private.tg_llm_reservations__moved();
