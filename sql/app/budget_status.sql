create or replace function app.budget_status(tenant_id uuid, ticket text)
returns table (
  scope text, scope_id text, period text, period_start timestamptz, period_end timestamptz, hard boolean,
  limit_nanousd bigint, spent_nanousd bigint, reserved_nanousd bigint, presumed_nanousd bigint,
  left_nanousd bigint,
  limit_usd numeric, spent_usd numeric, reserved_usd numeric, presumed_usd numeric, left_usd numeric)
language plpgsql
security definer  -- the service role may not read budgets
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  return query
  select h.scope, h.scope_id, h.period, nullif(h.period_start, '-infinity'), nullif(h.period_end, 'infinity'),
         h.hard, h.limit_nanousd, h.spent_nanousd, h.reserved_nanousd, h.presumed_nanousd, h.left_nanousd,
         app_private.usd(h.limit_nanousd), app_private.usd(h.spent_nanousd),
         app_private.usd(h.reserved_nanousd), app_private.usd(h.presumed_nanousd),
         app_private.usd(h.left_nanousd)
  from app_private.llm_headroom(budget_status.tenant_id, pg_catalog.now()) as h;
end
$$;

comment on function app.budget_status is
  'The budgets of a tenant in their current period, in nano-USD and in dollars; total has no bounds (null). '
  'left = limit - spent - reserved - presumed; limit and left are null where a budget is unlimited.';

grant execute on function app.budget_status to holdfast_service, holdfast_worker;
