create or replace function app_private.llm_asks_periods(
  tenant_id uuid, asks app_private.llm_ask[], at timestamptz)
returns app_private.llm_period[]
language plpgsql
stable
set search_path = ''
as $$
begin
  return array(
    with scopes as materialized (
      select 'tenant' as scope, '' as scope_id
      union
      select s.scope, s.scope_id
      from unnest(asks) as a
      cross join lateral (
        select 'api_key', a.api_key where a.api_key is not null
        union all select 'user', a.user_id where a.user_id is not null
        union all select 'model', a.provider || '/' || a.model
        union all select 'tag', t.tag from unnest(a.tags) as t (tag)) as s (scope, scope_id)
      where a.refusal is null
    )
    select (row_number() over (order by b.scope = 'tenant', b.id), b.id, b.scope, b.scope_id, b.period,
            e.period_start, e.period_end, b.limit_nanousd, coalesce(p.spent_nanousd, 0),
            coalesce(p.reserved_nanousd, 0), coalesce(p.presumed_nanousd, 0),
            p.budget_id is not null)::app_private.llm_period
    from scopes as s
    join app.llm_budgets as b
      on b.tenant_id = llm_asks_periods.tenant_id and b.scope = s.scope and b.scope_id = s.scope_id
    cross join (
      select t.time_zone, t.anchor_day from app.tenants as t
      where t.tenant_id = llm_asks_periods.tenant_id) as z
    cross join lateral app_private.period_bounds(b.period, z.time_zone, at, z.anchor_day) as e
    left join app.llm_budget_periods as p
      on p.tenant_id = b.tenant_id and p.budget_id = b.id and p.period_start = e.period_start
    order by b.scope = 'tenant', b.id);
end
$$;

comment on function app_private.llm_asks_periods is
  'The budgets that these requests would be held in, in the period of this moment, as they stand: read, not locked.';
