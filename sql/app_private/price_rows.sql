create or replace function app_private.price_rows(input numeric, cached_input numeric, output numeric)
returns table (unit text, price numeric)
language sql
immutable
set search_path = ''
as $$
  select r.unit, r.price
  from (values ('input', input), ('cached_input', cached_input), ('output', output)) as r (unit, price)
  where r.price is not null
$$;

comment on function app_private.price_rows is 'The rows of app.llm_prices that a price of a model is made of.';

grant execute on function app_private.price_rows to holdfast_system;
