create or replace function app_private.llm_prices_check(prices app.llm_prices[]) returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  v_wrong app.llm_prices;
begin
  select p.* into v_wrong
  from unnest(prices) as p
  where coalesce(
    pg_catalog.length(p.provider) not between 1 and 200
    or pg_catalog.length(p.model) not between 1 and 200
    or p.unit not in ('input', 'cached_input', 'cache_write_5m', 'cache_write_1h', 'output', 'reasoning',
                      'request', 'image', 'tool_call')
    or not p.usd_per_million between 0 and
      case when p.unit in ('request', 'image', 'tool_call') then 1000000000 else 100000 end
    or isempty(p.valid) or p.service_tier not in ('standard', 'priority', 'flex', 'batch')
    or isempty(p.prompt_tokens) or lower(p.prompt_tokens) < 0, true)
  limit 1;
  if found then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('provider', v_wrong.provider, 'model', v_wrong.model,
        'unit', v_wrong.unit, 'usd_per_million', v_wrong.usd_per_million::text),
      hint    =
        'Prices are 0 to 100,000 US dollars per million tokens, and up to 1,000,000,000 per million requests, '
        'images or tool calls; units, service tiers and ranges are those of app.llm_prices.';
  end if;
end
$$;

comment on function app_private.llm_prices_check is 'Raises OP102 unless each of these may be a row of app.llm_prices.';

grant execute on function app_private.llm_prices_check to holdfast_system;
