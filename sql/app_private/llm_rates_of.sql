create or replace function app_private.llm_rates_of(tenant_id uuid, price_ids uuid[], prompt_tokens int8range)
returns app_private.llm_rates
language plpgsql
stable
set search_path = ''
as $$
declare
  v_rates app_private.llm_rates;
begin
  with rates as (
    select p.unit, max(coalesce(o.usd_per_million, p.usd_per_million * coalesce(o.factor, 1))) as rate
    from app.llm_prices as p
    left join lateral (
      select x.usd_per_million, x.factor
      from app.llm_price_overrides as x
      where x.tenant_id = llm_rates_of.tenant_id and x.id = any (price_ids)
        and x.model in ('', p.model) and x.unit in ('', p.unit)
      order by x.model desc, x.unit desc limit 1) as o on true
    where p.id = any (price_ids) and p.prompt_tokens && llm_rates_of.prompt_tokens
    group by p.unit
  ),
  units as (
    select max(r.rate) filter (where r.unit = 'input') as input,
           max(r.rate) filter (where r.unit = 'cached_input') as cached_input,
           max(r.rate) filter (where r.unit = 'cache_write_5m') as cache_write_5m,
           max(r.rate) filter (where r.unit = 'cache_write_1h') as cache_write_1h,
           max(r.rate) filter (where r.unit = 'output') as output,
           max(r.rate) filter (where r.unit = 'reasoning') as reasoning,
           max(r.rate) filter (where r.unit = 'request') as request,
           max(r.rate) filter (where r.unit = 'image') as image,
           max(r.rate) filter (where r.unit = 'tool_call') as tool_call
    from rates as r
  )
  select u.input, coalesce(u.cached_input, u.input), coalesce(u.cache_write_5m, u.input),
         coalesce(u.cache_write_1h, u.cache_write_5m, u.input), u.output, coalesce(u.reasoning, u.output),
         coalesce(u.request, 0), coalesce(u.image, 0), coalesce(u.tool_call, 0)
  into v_rates
  from units as u;
  return v_rates;
end
$$;

comment on function app_private.llm_rates_of is
  'What these versions of prices, and the tenant''s overrides among them, come to for a prompt of so many tokens: where '
  'the range covers several tiers, the dearest of each unit. A kind of input or output without a price of its own costs '
  'what input or output does.';
