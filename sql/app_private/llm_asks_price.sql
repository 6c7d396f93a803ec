create or replace function app_private.llm_asks_price(
  tenant_id uuid, asks app_private.llm_ask[], at timestamptz)
returns app_private.llm_ask[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_asks  app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask   app_private.llm_ask;
  v_ids   record;
  v_rates app_private.llm_rates;
  v_model text[];
  v_known text[];  -- the model whose prices the variables above hold
  v_bound bigint;
begin
  foreach v_ask in array asks loop
    if v_ask.refusal is null then
      v_model := array[v_ask.provider, v_ask.model, v_ask.service_tier];
      if v_model is distinct from v_known then
        select p.* into v_ids
        from app_private.llm_price_ids(tenant_id, v_ask.provider, v_ask.model, v_ask.service_tier, at) as p;
        v_known := v_model;
        v_bound := null;
      end if;
      if v_bound is null or (v_ids.tiered and v_bound <> v_ask.input_tokens_bound) then
        v_bound := v_ask.input_tokens_bound;
        v_rates := app_private.llm_rates_of(tenant_id, v_ids.price_ids, int8range(0, v_bound, '[]'));
      end if;

      if v_rates.input is null or v_rates.output is null
        or (v_ask.images > 0 and v_rates.image = 0) or (v_ask.tool_calls > 0 and v_rates.tool_call = 0)
      then
        v_ask.refusal := 'no_price';
        v_ask.detail := pg_catalog.jsonb_build_object('reason', 'no_price', 'provider', v_ask.provider,
          'model', v_ask.model, 'service_tier', v_ask.service_tier);
      else
        v_ask.price_ids := v_ids.price_ids;
        v_ask.output_rate := greatest(v_rates.output, v_rates.reasoning);
        v_ask.fixed_nanousd := 1000 * (v_rates.request
          + v_ask.images * v_rates.image + v_ask.tool_calls * v_rates.tool_call
          + v_ask.input_tokens_bound * greatest(
            v_rates.input, v_rates.cached_input, v_rates.cache_write_5m, v_rates.cache_write_1h));
        v_ask.needed_nanousd := pg_catalog.ceil(
          v_ask.fixed_nanousd + 1000 * v_ask.max_output_tokens * v_ask.output_rate);
      end if;
    end if;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
end
$$;

comment on function app_private.llm_asks_price is
  'The most that each request can cost: every input token at the dearest rate that could be applied to it (a cache that is '
  'written or read, a longer prompt''s tier), every output token as the dearer of output and reasoning. In nano-USD, '
  'rounded up once. One whose model has no price is refused.';
