create or replace function app_private.llm_price_of(provider text, model text, at timestamptz)
returns table (input_rate numeric, cached_rate numeric, output_rate numeric, price_ids uuid[])
language plpgsql
stable
set search_path = ''
as $$
begin
  select max(p.usd_per_million) filter (where p.unit = 'input'),
         max(p.usd_per_million) filter (where p.unit = 'cached_input'),
         max(p.usd_per_million) filter (where p.unit = 'output'),
         array_agg(p.id order by p.unit)
  into input_rate, cached_rate, output_rate, price_ids
  from app.llm_prices as p
  where p.provider = llm_price_of.provider and p.model = llm_price_of.model and p.valid @> at;

  if input_rate is null or output_rate is null then
    raise exception using
      errcode = 'LB102',
      message = 'no_price',
      detail  = pg_catalog.jsonb_build_object('reason', 'no_price', 'provider', provider, 'model', model),
      hint    =
        pg_catalog.format('In psql: select * from ops.llm_price_set(%L, %L, input_usd_per_million => …, '
          'output_usd_per_million => …, reason => ''…'');', provider, model);
  end if;
  return next;
end
$$;

comment on function app_private.llm_price_of is
  'US dollars per million tokens of a model at a moment, and the versions they come from. Raises LB102 without a price '
  'for input and output; a missing price of cached input is null.';
