create or replace function app_private.llm_asks_read(asks jsonb) returns app_private.llm_ask[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  v_asks  app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask   app_private.llm_ask;
  v_fault text;
begin
  if pg_catalog.jsonb_typeof(asks) is distinct from 'array'
    or pg_catalog.jsonb_array_length(asks) not between 1 and 1000
  then
    raise exception using
      errcode = 'LB105',
      message = 'reservation_invalid',
      hint    = 'The requests are a JSON array of 1 to 1,000 objects.';
  end if;

  for v_ask in
    select e.n, app_private.uuid_v7(), x.idempotency_key, null::text, x.provider, x.model,
           coalesce(x.service_tier, 'standard'), app_private.whole(x.input_tokens_bound),
           app_private.whole(x.max_output_tokens), app_private.whole(x.min_output_tokens),
           app_private.whole(coalesce(x.images, 0)), app_private.whole(coalesce(x.tool_calls, 0)), x.api_key,
           x.user_id, coalesce(x.tags, '{}'), x.run_id, app_private.whole(coalesce(x.attempt, 1)),
           app_private.whole(coalesce(x.ttl_ms, 120000)) * interval '1 millisecond',
           null::uuid[], null::numeric, null::numeric, null::numeric, null::integer[], null::text, null::jsonb
    from pg_catalog.jsonb_array_elements(asks) with ordinality as e (ask, n)
    cross join lateral pg_catalog.jsonb_to_record(e.ask) as x (
      idempotency_key text, provider text, model text, service_tier text, input_tokens_bound numeric,
      max_output_tokens numeric, min_output_tokens numeric, images numeric, tool_calls numeric, api_key text,
      user_id text, tags text[], run_id uuid, attempt numeric, ttl_ms numeric)
    order by e.n
  loop
    v_ask.fingerprint := pg_catalog.md5(row(
      v_ask.provider, v_ask.model, v_ask.service_tier, v_ask.input_tokens_bound, v_ask.max_output_tokens,
      v_ask.min_output_tokens, v_ask.images, v_ask.tool_calls, v_ask.api_key, v_ask.user_id, v_ask.tags,
      v_ask.run_id, v_ask.attempt)::text);
    v_fault := app_private.llm_ask_fault(v_ask);
    if v_fault is not null then
      v_ask.refusal := 'reservation_invalid';
      v_ask.detail := pg_catalog.jsonb_build_object('fault', v_fault);
    end if;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
exception when data_exception or feature_not_supported then
  return app_private.llm_asks_read_one_by_one(asks);
end
$$;

comment on function app_private.llm_asks_read is
  'Reads requests for holds; one whose numbers cannot be held is refused by itself. The fingerprint is of '
  'what was asked but for its ttl, with what was left out as it is understood. '
  'Raises LB105 for what is no list.';
