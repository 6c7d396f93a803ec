create or replace function app_private.llm_prices_read(rows jsonb, source text) returns app.llm_prices[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_prices app.llm_prices[];
  v_gap    text;
begin
  begin
    select array_agg(pg_catalog.jsonb_populate_record(null::app.llm_prices, pg_catalog.jsonb_build_object(
      'provider', r.provider, 'model', r.model, 'unit', r.unit, 'usd_per_million', r.usd_per_million,
      'service_tier', coalesce(r.service_tier, 'standard'),
      'prompt_tokens', int8range(coalesce(r.prompt_tokens_from, 0), r.prompt_tokens_below),
      'valid', tstzrange(r.valid_from, r.valid_until), 'source', source)))
    into v_prices
    from pg_catalog.jsonb_to_recordset(rows) as r (
      provider text, model text, unit text, usd_per_million numeric, service_tier text,
      prompt_tokens_from bigint, prompt_tokens_below bigint, valid_from timestamptz, valid_until timestamptz);
  exception
    when data_exception then null;
  end;
  perform app_private.llm_prices_check(v_prices);

  -- A length of prompt without a price would be priced as another one.
  select concat_ws(' ', p.provider, p.model, p.service_tier, p.unit, p.valid) into v_gap
  from unnest(v_prices) as p
  group by p.provider, p.model, p.service_tier, p.unit, p.valid
  having range_agg(p.prompt_tokens) <> '{[0,)}'::int8multirange
    or sum(coalesce(upper(p.prompt_tokens), 9223372036854775807) - lower(p.prompt_tokens))
      <> 9223372036854775807
  limit 1;
  if v_prices is null or v_gap is not null
    or coalesce(pg_catalog.length(source), 0) not between 1 and 200
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('lengths_of_prompt', v_gap)),
      hint    =
        'rows is an array of {provider, model, unit, usd_per_million} and, where needed, service_tier, '
        'prompt_tokens_from, prompt_tokens_below, valid_from, valid_until; the ranges of prompt_tokens of one '
        'price cover every length once; source is a name of 1 to 200 characters.';
  end if;
  return v_prices;
end
$$;

comment on function app_private.llm_prices_read is
  'The prices of a list, as rows of app.llm_prices; raises OP102 where one cannot be.';

grant execute on function app_private.llm_prices_read to holdfast_system;
