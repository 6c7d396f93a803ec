create or replace function app_private.llm_refusal(
  ask app_private.llm_ask, periods app_private.llm_period[], least_nanousd numeric) returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
declare
  v_needed constant numeric := ask.needed_nanousd;
  v_tight  app_private.llm_period;
  v_left   constant numeric := (
    select min(case p.limit_nanousd when 0 then -1
             else p.limit_nanousd - p.spent_nanousd - p.presumed_nanousd - p.reserved_nanousd end)
    from unnest(periods) as p where p.place = any (ask.periods));
begin
  -- The most lasting reason is told: who is told to wait for calls in flight must not wait for ever.
  select p.* into v_tight
  from unnest(periods) as p
  where p.place = any (ask.periods) and p.limit_nanousd is not null
  order by (p.limit_nanousd = 0) desc, (v_needed > p.limit_nanousd) desc,
           (p.spent_nanousd + p.presumed_nanousd + v_needed > p.limit_nanousd) desc,
           p.limit_nanousd - p.spent_nanousd - p.presumed_nanousd - p.reserved_nanousd, p.place
  limit 1;
  return pg_catalog.jsonb_build_object(
    'reason', case
      when v_tight.limit_nanousd = 0 then 'zero'
      when v_needed > v_tight.limit_nanousd then 'too_large'
      when v_tight.spent_nanousd + v_tight.presumed_nanousd + v_needed <= v_tight.limit_nanousd
        then 'in_flight'
      else 'exhausted' end,
    'scope', v_tight.scope, 'scope_id', v_tight.scope_id, 'period', v_tight.period,
    'period_end', v_tight.period_end,
    'limit_nanousd', v_tight.limit_nanousd::text, 'spent_nanousd', v_tight.spent_nanousd::text,
    'reserved_nanousd', v_tight.reserved_nanousd::text, 'presumed_nanousd', v_tight.presumed_nanousd::text,
    'needed_nanousd', v_needed::text,
    'max_affordable_output_tokens', case when ask.output_rate > 0 then greatest(0,
      pg_catalog.floor((least(least_nanousd, v_left) - ask.fixed_nanousd) / (1000 * ask.output_rate)))
      else 0 end);
end
$$;

comment on function app_private.llm_refusal is
  'Which budget a request does not fit, why (zero, too_large, exhausted, or in_flight: it would fit when the calls that are '
  'under way cost nothing), and how many output tokens would fit. least: what the tightest of its budgets has left.';
