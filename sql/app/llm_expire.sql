set local role holdfast_system;

create or replace function app.llm_expire(max_rows integer default 500)
returns table (tenant_id uuid, reservation_id uuid, run_id uuid)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
begin
  return query
  with due as materialized (
    select r.tenant_id, r.id
    from app.llm_reservations as r
    -- The oldest of each tenant first: what one keeps locked must not fill the batch.
    where (r.tenant_id, r.id) in (
        select e.tenant_id, e.id
        from (
          select x.tenant_id, x.id, x.expires_at,
                 row_number() over (partition by x.tenant_id order by x.expires_at) as place
          from app.llm_reservations as x
          where x.status = 'RESERVED' and x.expires_at < pg_catalog.clock_timestamp()) as e
        order by e.place, e.expires_at
        limit max_rows)
      and r.status = 'RESERVED'
    for no key update skip locked
  ),
  holds as materialized (
    select d.tenant_id, d.id, h.budget_id, h.period_start
    from due as d
    join app.llm_reservation_budgets as h on h.tenant_id = d.tenant_id and h.reservation_id = d.id
  ),
  -- Not waited for: a tenant that keeps its period locked must not stop the others.
  locked as materialized (
    select b.tenant_id, b.budget_id, b.period_start
    from app.llm_budget_periods as b
    where (b.tenant_id, b.budget_id, b.period_start) in (
      select h.tenant_id, h.budget_id, h.period_start from holds as h)
    for no key update skip locked
  ),
  presumed as (
    update app.llm_reservations as r
    set status = 'PRESUMED', reason = 'expired'
    from due as d
    where r.tenant_id = d.tenant_id and r.id = d.id
      and not exists (
        select from holds as h
        where h.tenant_id = d.tenant_id and h.id = d.id
          and (h.tenant_id, h.budget_id, h.period_start) not in (
            select l.tenant_id, l.budget_id, l.period_start from locked as l))
    returning r.tenant_id, r.id, r.run_id, r.estimated_cost_nanousd
  ),
  moved as (
    select h.tenant_id, h.budget_id, h.period_start, sum(p.estimated_cost_nanousd)::bigint as amount
    from presumed as p
    join holds as h on h.tenant_id = p.tenant_id and h.id = p.id
    group by h.tenant_id, h.budget_id, h.period_start
  ),
  counted as (
    update app.llm_budget_periods as b
    set reserved_nanousd = b.reserved_nanousd - m.amount,
        presumed_nanousd = b.presumed_nanousd + m.amount
    from moved as m
    where b.tenant_id = m.tenant_id and b.budget_id = m.budget_id and b.period_start = m.period_start
  )
  select p.tenant_id, p.id, p.run_id from presumed as p;
end
$$;

comment on function app.llm_expire is
  'Turns holds past their time into PRESUMED, among all tenants, max_rows at a time; answers which. It only '
  'tidies: an expired hold counts the same before and after. What is locked is left for the next time.';

grant execute on function app.llm_expire to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
