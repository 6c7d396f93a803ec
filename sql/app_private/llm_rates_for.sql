create or replace function app_private.llm_rates_for(tenant_id uuid, price_ids uuid[], prompt_tokens bigint)
returns app_private.llm_rates
language plpgsql
stable
set search_path = ''
as $$
declare
  v_rates app_private.llm_rates := app_private.llm_rates_of(
    tenant_id, price_ids, int8range(prompt_tokens, prompt_tokens, '[]'));
begin
  if v_rates.input is null or v_rates.output is null then
    return app_private.llm_rates_of(tenant_id, price_ids, int8range(0, null));
  end if;
  return v_rates;
end
$$;

comment on function app_private.llm_rates_for is
  'What these versions of prices come to for a prompt that was that long; where no tier has that length, the dearest of all.';
