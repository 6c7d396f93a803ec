create or replace function app.llm_quote(tenant_id uuid, ticket text, ask jsonb)
returns table (
  fits boolean, estimated_cost_nanousd bigint, estimated_cost_usd numeric, granted_output_tokens bigint,
  refusal text, detail jsonb, hint text)
language plpgsql
security definer  -- the service role may not read budgets
set search_path = ''
as $$
declare
  v_ask app_private.llm_ask;
begin
  perform app.enter(tenant_id, ticket);
  v_ask := app_private.llm_quote(tenant_id, ask);
  return query
  select v_ask.refusal is null, v_ask.needed_nanousd::bigint, app_private.usd(v_ask.needed_nanousd::bigint),
         case when v_ask.refusal is null then v_ask.max_output_tokens end, v_ask.refusal, v_ask.detail,
         app_private.llm_hint(v_ask.refusal, v_ask.detail);
end
$$;

comment on function app.llm_quote is
  'What a hold of that size would be answered now, as app.llm_reserve_many takes it (no key is needed): the most that the '
  'call can cost, and whether it fits. Holds nothing.';

grant execute on function app.llm_quote to holdfast_service, holdfast_worker;
