create or replace function app_private.llm_move(
  tenant_id uuid, reservation_id uuid, from_status text, amount_nanousd bigint, to_status text,
  cost_nanousd bigint)
returns void
language plpgsql
set search_path = ''
as $$
begin
  with held as (
    select p.tenant_id, p.budget_id, p.period_start
    from app.llm_reservation_budgets as h
    join app.llm_budget_periods as p
      on p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start
    where h.tenant_id = llm_move.tenant_id and h.reservation_id = llm_move.reservation_id
    order by p.budget_id
    for no key update of p
  )
  update app.llm_budget_periods as p
  set reserved_nanousd = p.reserved_nanousd
        - case when from_status = 'RESERVED' then amount_nanousd else 0 end,
      presumed_nanousd = p.presumed_nanousd
        - case when from_status = 'PRESUMED' then amount_nanousd else 0 end
        + case when to_status = 'PRESUMED' then amount_nanousd else 0 end,
      spent_nanousd = p.spent_nanousd + coalesce(llm_move.cost_nanousd, 0)
  from held as h
  where p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start;
end
$$;

comment on function app_private.llm_move is
  'Moves the amount of a hold in every budget that it holds: out of reserved or presumed, into presumed or spent. It '
  'lands in the period in which it was reserved, also when that period is over.';
