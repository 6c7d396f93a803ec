set local role holdfast_system;

create or replace function ops.llm_price_set(
  provider text, model text, input_usd_per_million numeric, output_usd_per_million numeric, reason text,
  cached_input_usd_per_million numeric default null, dry_run boolean default false,
  cache_write_5m_usd_per_million numeric default null, cache_write_1h_usd_per_million numeric default null,
  reasoning_usd_per_million numeric default null, request_usd_per_million numeric default null,
  image_usd_per_million numeric default null, tool_call_usd_per_million numeric default null,
  service_tier text default 'standard', prompt_tokens_from bigint default 0,
  prompt_tokens_below bigint default null, correct boolean default false)
returns table (unit text, before_usd_per_million numeric, after_usd_per_million numeric)
language plpgsql
security definer  -- prices are for all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_after    constant jsonb := pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
    'input', input_usd_per_million, 'cached_input', cached_input_usd_per_million,
    'cache_write_5m', cache_write_5m_usd_per_million, 'cache_write_1h', cache_write_1h_usd_per_million,
    'output', output_usd_per_million, 'reasoning', reasoning_usd_per_million,
    'request', request_usd_per_million, 'image', image_usd_per_million,
    'tool_call', tool_call_usd_per_million));
  v_wanted   app.llm_prices[];
  v_before   jsonb;
  v_now      timestamptz;
begin
  perform app_private.reason_check(reason);
  if input_usd_per_million is null or output_usd_per_million is null
    or cached_input_usd_per_million > input_usd_per_million
    or not coalesce(prompt_tokens_from >= 0, false) or prompt_tokens_below <= prompt_tokens_from
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      hint    =
        'Input and output have a price, cached input costs no more than input, and prompt_tokens_from is less '
        'than prompt_tokens_below.';
  end if;
  if not dry_run then
    lock table app.llm_prices in share row exclusive mode;
  end if;
  v_now := pg_catalog.clock_timestamp();

  select s.wanted, s.before into v_wanted, v_before
  from app_private.llm_price_wanted(provider, model, service_tier,
    int8range(prompt_tokens_from, prompt_tokens_below), v_after, v_now, correct) as s;
  if not dry_run then
    perform app_private.llm_prices_put(v_wanted, v_now);
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('llm_price_set', provider || '/' || model, reason, nullif(v_before, '{}'),
      v_after || pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
        'service_tier', nullif(service_tier, 'standard'), 'prompt_tokens_from', nullif(prompt_tokens_from, 0),
        'prompt_tokens_below', prompt_tokens_below, 'correct', nullif(correct, false))));
  end if;

  return query
  select w.unit, (v_before ->> w.unit)::numeric, w.usd_per_million
  from unnest(v_wanted) with ordinality as w
  where v_before ? w.unit or v_after ? w.unit
  order by w.ordinality;
end
$$;

comment on function ops.llm_price_set is
  'Sets the price of a model from now on, in US dollars per million of each unit, for all tenants; audited. A unit that is not '
  'named has no price of its own from now on, and what was announced for later no longer stands. prompt_tokens_from and '
  '_below set it for prompts of that length alone. correct => true says that what stands was always wrong: it is replaced for '
  'as long as it was to apply, and holds keep what they were made with. dry_run shows the change without making it. Raises '
  'OP101, OP102.';

grant execute on function ops.llm_price_set to holdfast_ops;

set local role holdfast_owner;
