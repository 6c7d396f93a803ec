create or replace function app_private.llm_headroom(tenant_id uuid, at timestamptz)
returns table (
  budget_id uuid, scope text, scope_id text, period text, period_start timestamptz, period_end timestamptz,
  hard boolean, limit_nanousd bigint, spent_nanousd bigint, reserved_nanousd bigint, presumed_nanousd bigint,
  left_nanousd bigint)
language sql
stable
set search_path = ''
as $$
  select b.id, b.scope, b.scope_id, b.period, s.period_start, s.period_end, b.hard, b.limit_nanousd,
         coalesce(p.spent_nanousd, 0), coalesce(p.reserved_nanousd, 0), coalesce(p.presumed_nanousd, 0),
         b.limit_nanousd - coalesce(p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd, 0)
  from app.llm_budgets as b
  join app.tenants as t on t.tenant_id = b.tenant_id
  cross join lateral app_private.period_bounds(b.period, t.time_zone, $2, t.anchor_day) as s
  left join app.llm_budget_periods as p
    on p.tenant_id = b.tenant_id and p.budget_id = b.id and p.period_start = s.period_start
  where b.tenant_id = $1
  order by b.scope <> 'tenant', b.scope, b.scope_id, b.period
$$;

comment on function app_private.llm_headroom is
  'Each budget of a tenant in its current period, whether or not its row was made yet; '
  'left may be negative after a cut, and is null where it is unlimited, as the limit is.';

grant execute on function app_private.llm_headroom to holdfast_system;
