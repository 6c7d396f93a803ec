create or replace function app_private.llm_refuse(
  tenant_id uuid, at timestamptz, needed_nanousd numeric, input_nanousd numeric, output_rate numeric)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_tight record;
begin
  -- The most lasting reason is told: who is told to wait for calls in flight must not wait for ever.
  select h.*, min(h.left_nanousd) over () as least_nanousd, min(h.limit_nanousd) over () = 0 as blocked
  into v_tight
  from app_private.llm_headroom(tenant_id, at) as h
  order by (h.limit_nanousd = 0) desc, (needed_nanousd > h.limit_nanousd) desc,
           (h.spent_nanousd + h.presumed_nanousd + needed_nanousd > h.limit_nanousd) desc,
           h.left_nanousd, h.budget_id
  limit 1;

  raise exception using
    errcode = 'LB101',
    message = 'budget_exceeded',
    detail  = pg_catalog.jsonb_build_object(
      'reason', case
        when v_tight is null then 'no_budget'
        when v_tight.limit_nanousd = 0 then 'zero'
        when needed_nanousd > v_tight.limit_nanousd then 'too_large'
        when v_tight.spent_nanousd + v_tight.presumed_nanousd + needed_nanousd <= v_tight.limit_nanousd
        then 'in_flight'
        else 'exhausted' end,
      'scope', v_tight.scope, 'period', v_tight.period, 'period_end', v_tight.period_end,
      'limit_nanousd', v_tight.limit_nanousd::text, 'spent_nanousd', v_tight.spent_nanousd::text,
      'reserved_nanousd', v_tight.reserved_nanousd::text, 'presumed_nanousd', v_tight.presumed_nanousd::text,
      'needed_nanousd', needed_nanousd::text,
      'max_affordable_output_tokens', case
        when not v_tight.blocked and output_rate > 0
        then greatest(0, floor((v_tight.least_nanousd - input_nanousd) / (1000 * output_rate))) else 0 end),
    hint = case
      when v_tight is null then
        'The tenant has no budget. In psql: select * from ops.budget_set(tenant => …, limit_usd => …, reason => …);'
      when v_tight.limit_nanousd = 0 then
        'A limit of 0 refuses every call. Raise it with ops.budget_set.'
      when needed_nanousd > v_tight.limit_nanousd then
        'The call alone is more than the limit. Ask for less, or raise the limit with ops.budget_set.'
      when v_tight.spent_nanousd + v_tight.presumed_nanousd + needed_nanousd <= v_tight.limit_nanousd then
        'Calls that are under way hold the rest. Try again when they have ended.'
      else
        'Wait for the next period, ask for less, or raise the limit with ops.budget_set.' end;
end
$$;

comment on function app_private.llm_refuse is
  'Raises LB101 budget_exceeded, saying which budget is the tightest, why, and how many output tokens would fit.';
