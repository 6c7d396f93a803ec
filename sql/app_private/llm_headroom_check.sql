create or replace function app_private.llm_headroom_check(
  tenant_id uuid, provider text, model text, input_tokens_bound bigint, max_output_tokens bigint) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_at     constant timestamptz := pg_catalog.clock_timestamp();
  v_price  record;
  v_needed numeric;
  v_tight  bigint;
begin
  perform app_private.llm_request_check('headroom', input_tokens_bound, max_output_tokens, 1, interval '0');
  select p.* into v_price from app_private.llm_price_of(provider, model, v_at) as p;
  v_needed := app_private.llm_cost_nanousd(input_tokens_bound, 0, max_output_tokens,
    greatest(v_price.input_rate, v_price.cached_rate), null, v_price.output_rate);

  select min(case when h.limit_nanousd = 0 then -1 else h.left_nanousd end) into v_tight
  from app_private.llm_headroom(tenant_id, v_at) as h;
  if v_tight is null or v_tight < v_needed or v_tight < 0 then
    perform app_private.llm_refuse(tenant_id, v_at, v_needed,
      app_private.llm_cost_nanousd(input_tokens_bound, 0, 0,
        greatest(v_price.input_rate, v_price.cached_rate), null, 0),
      v_price.output_rate);
  end if;
end
$$;

comment on function app_private.llm_headroom_check is
  'Passes when a call of that size would fit the budget now; holds nothing, so the call itself still reserves. Raises '
  'LB101, LB102, LB105.';
