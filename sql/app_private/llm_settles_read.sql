create or replace function app_private.llm_settles_read(settles jsonb) returns app_private.llm_settle[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  v_settles app_private.llm_settle[] := array[]::app_private.llm_settle[];
  v_settle  app_private.llm_settle;
  v_fault   text;
begin
  if pg_catalog.jsonb_typeof(settles) is distinct from 'array'
    or pg_catalog.jsonb_array_length(settles) not between 1 and 1000
  then
    raise exception using
      errcode = 'LB105',
      message = 'reservation_invalid',
      hint    = 'What is settled is a JSON array of 1 to 1,000 objects.';
  end if;

  for v_settle in
    select e.n, x.reservation_id, coalesce(x.final, true),
           (app_private.whole(x.input_tokens), app_private.whole(coalesce(x.cached_input_tokens, 0)),
            app_private.whole(coalesce(x.cache_write_5m_tokens, 0)),
            app_private.whole(coalesce(x.cache_write_1h_tokens, 0)),
            app_private.whole(x.output_tokens), app_private.whole(coalesce(x.reasoning_tokens, 0)), 1,
            app_private.whole(coalesce(x.images, 0)),
            app_private.whole(coalesce(x.tool_calls, 0)))::app_private.llm_units,
           coalesce(x.source, 'provider'), pg_catalog.left(x.provider_request_id, 200),
           pg_catalog.left(x.response_model, 200), pg_catalog.left(x.finish_reason, 50),
           coalesce(x.simulated, false), coalesce(x.of_client, false),
           null::boolean, null::uuid, null::text, null::text, null::bigint, null::boolean, null::bigint,
           null::text, null::numeric, null::numeric, null::text, null::jsonb
    from pg_catalog.jsonb_array_elements(settles) with ordinality as e (settle, n)
    cross join lateral pg_catalog.jsonb_to_record(e.settle) as x (
      reservation_id uuid, final boolean, input_tokens numeric, cached_input_tokens numeric,
      cache_write_5m_tokens numeric, cache_write_1h_tokens numeric, output_tokens numeric,
      reasoning_tokens numeric, images numeric, tool_calls numeric, source text,
      provider_request_id text, response_model text, finish_reason text, simulated boolean,
      of_client boolean)
    order by e.n
  loop
    v_fault := case when v_settle.source not in ('provider', 'estimated')
                      then 'source is provider or estimated.'
                    else app_private.llm_units_fault(v_settle.used) end;
    if v_fault is not null then
      v_settle.refusal := 'reservation_invalid';
      v_settle.detail := pg_catalog.jsonb_build_object('fault', v_fault);
    end if;
    v_settles := v_settles || v_settle;
  end loop;
  return v_settles;
exception when data_exception or feature_not_supported then
  return app_private.llm_settles_read_one_by_one(settles);
end
$$;

comment on function app_private.llm_settles_read is
  'Reads what is to be settled; one whose numbers cannot be true is refused by itself. Raises LB105 for what is no list.';
