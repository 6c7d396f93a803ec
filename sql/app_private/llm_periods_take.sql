create or replace function app_private.llm_periods_take(tenant_id uuid, periods app_private.llm_period[])
returns app_private.llm_period[]
language plpgsql
set search_path = ''
as $$
begin
  if exists (select from unnest(periods) as q where not q.made) then
    insert into app.llm_budget_periods (tenant_id, budget_id, period_start, period_end)
    select llm_periods_take.tenant_id, q.budget_id, q.period_start, q.period_end
    from unnest(periods) as q
    where not q.made
    order by q.place
    on conflict on constraint llm_budget_periods_pkey do nothing;
  end if;

  perform
  from unnest(periods) as q
  join app.llm_budget_periods as p
    on p.tenant_id = llm_periods_take.tenant_id and p.budget_id = q.budget_id
    and p.period_start = q.period_start
  order by q.place
  for no key update of p;

  -- A statement of its own: a limit that was lowered while this waited counts.
  return array(
    select (q.place, q.budget_id, q.scope, q.scope_id, q.period, q.period_start, q.period_end,
            b.limit_nanousd, p.spent_nanousd, p.reserved_nanousd, p.presumed_nanousd,
            true)::app_private.llm_period
    from unnest(periods) as q
    join app.llm_budget_periods as p
      on p.tenant_id = llm_periods_take.tenant_id and p.budget_id = q.budget_id
      and p.period_start = q.period_start
    join app.llm_budgets as b on b.tenant_id = llm_periods_take.tenant_id and b.id = q.budget_id
    order by q.place);
end
$$;

comment on function app_private.llm_periods_take is
  'Locks the counters of these periods, in their order, makes those that are not there, and answers them as they stand.';
