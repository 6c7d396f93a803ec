create or replace function app_private.llm_price_wanted(
  provider text, model text, service_tier text, prompt_tokens int8range, prices jsonb, at timestamptz,
  correct boolean)
returns table (wanted app.llm_prices[], before jsonb)
language plpgsql
stable
set search_path = ''
as $$
begin
  with standing as (
    select s.unit, max(s.usd_per_million) as usd_per_million,
           tstzrange(max(lower(s.valid)), min(upper(s.valid))) as valid
    from app.llm_prices as s
    where s.provider = llm_price_wanted.provider and s.model = llm_price_wanted.model
      and s.service_tier = llm_price_wanted.service_tier and s.prompt_tokens && llm_price_wanted.prompt_tokens
      and s.valid @> at and s.corrected_at = 'infinity'
    group by s.unit
  )
  select array_agg(pg_catalog.jsonb_populate_record(null::app.llm_prices, pg_catalog.jsonb_build_object(
           'provider', llm_price_wanted.provider, 'model', llm_price_wanted.model,
           'service_tier', llm_price_wanted.service_tier, 'unit', u.unit,
           'prompt_tokens', llm_price_wanted.prompt_tokens, 'usd_per_million', prices -> u.unit,
           'valid', case when correct then coalesce(s.valid, i.valid) else tstzrange(at, null) end,
           'source', 'ops: ' || session_user)) order by u.ordinality),
         coalesce(pg_catalog.jsonb_object_agg(u.unit, s.usd_per_million)
           filter (where s.unit is not null), '{}')
  into wanted, before
  from unnest(array['input', 'cached_input', 'cache_write_5m', 'cache_write_1h', 'output', 'reasoning',
                    'request', 'image', 'tool_call']) with ordinality as u (unit)
  left join standing as s on s.unit = u.unit
  left join standing as i on i.unit = 'input';

  perform app_private.llm_prices_check(array(
    select w from unnest(wanted) as w where prices ? w.unit and w.valid is not null));
  if not before ? 'input' and (correct or prompt_tokens <> '[0,)'::int8range) then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object(
        'provider', provider, 'model', model, 'service_tier', service_tier),
      hint    =
        'The model has no price yet: there is nothing to correct, and its first one is for prompts of every length.';
  end if;
  return next;
end
$$;

comment on function app_private.llm_price_wanted is
  'The nine units of a model as a person wants them, as rows of app.llm_prices: from a moment on, or for as long as what '
  'stands applies. One that is not among the prices has none. With it, what stands. Raises OP102.';

grant execute on function app_private.llm_price_wanted to holdfast_system;
