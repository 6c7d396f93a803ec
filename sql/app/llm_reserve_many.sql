create or replace function app.llm_reserve_many(
  tenant_id uuid, ticket text, asks jsonb, lock_timeout_ms integer default 3000)
returns table (
  n integer, id uuid, status text, estimated_cost_nanousd bigint, max_output_tokens bigint,
  expires_at timestamptz, replayed boolean, refusal text, detail jsonb, hint text)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_at      constant timestamptz := pg_catalog.clock_timestamp();
  v_asks    app_private.llm_ask[];
  v_periods app_private.llm_period[];
  v_ask     app_private.llm_ask;
  v_held    app.llm_reservations;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.llm_settings_set(lock_timeout_ms);

  v_asks := app_private.llm_asks_replayed(tenant_id, app_private.llm_asks_read(asks));
  v_asks := app_private.llm_asks_price(tenant_id, app_private.llm_asks_run(tenant_id, v_asks), v_at);
  v_periods := app_private.llm_asks_periods(tenant_id, v_asks, v_at);
  v_asks := app_private.llm_asks_place(v_asks, v_periods);
  -- What would not fit if every open hold were released is refused here: a storm of it locks nothing.
  v_asks := app_private.llm_asks_fit(v_asks, v_periods, all_come_back => true);

  if exists (select from unnest(v_asks) as a where a.refusal is null) then
    begin
      v_asks := app_private.llm_keys_take(tenant_id, v_asks);
      v_periods := app_private.llm_periods_take(tenant_id, v_periods);
      v_asks := app_private.llm_asks_fit(v_asks, v_periods, all_come_back => false);
      perform app_private.llm_holds_write(tenant_id, v_asks, v_periods, v_at);
      perform app_private.tenant_active(tenant_id);
    exception when lock_not_available then
      perform app_private.llm_busy();
    end;
  end if;

  foreach v_ask in array v_asks loop
    v_held := null;
    if v_ask.refusal = 'replayed' then
      select r.* into v_held
      from app.llm_reservations as r
      where r.tenant_id = llm_reserve_many.tenant_id and r.id = v_ask.id;
    end if;
    -- The same key again in one batch is answered as the first one was.
    if v_ask.refusal = 'replayed' and v_held.id is null then
      select f.refusal, f.detail into v_ask.refusal, v_ask.detail
      from unnest(v_asks) as f
      where f.id = v_ask.id and f.refusal = 'budget_exceeded';
    end if;

    n := v_ask.n;
    replayed := v_held.id is not null;
    refusal := nullif(v_ask.refusal, 'replayed');
    detail := v_ask.detail;
    hint := case when refusal is not null then app_private.llm_hint(refusal, detail) end;
    id := case when refusal is null then v_ask.id end;
    status := case when replayed then v_held.status when refusal is null then 'RESERVED' end;
    estimated_cost_nanousd := case when replayed then v_held.estimated_cost_nanousd
                                   when refusal is null then v_ask.needed_nanousd::bigint end;
    max_output_tokens := case when replayed then v_held.max_output_tokens
                              when refusal is null then v_ask.max_output_tokens end;
    expires_at := case when replayed then v_held.expires_at when refusal is null then v_at + v_ask.ttl end;
    return next;
  end loop;
end
$$;

comment on function app.llm_reserve_many is
  'Holds the most that each of these calls can cost, in every budget that it falls under or in none, before any of them is '
  'made: a JSON array of up to 1,000 objects with idempotency_key, provider, model, input_tokens_bound, max_output_tokens, '
  'and where wanted min_output_tokens (clamp down to it), service_tier, images, tool_calls, api_key, user_id, tags, run_id, '
  'attempt, ttl_ms. One that is refused fails no other: refusal has the name of the error. Raises LB105 for what is no list, '
  'LB301 when others keep the budget locked for longer than lock_timeout_ms, OP102.';

grant execute on function app.llm_reserve_many to holdfast_service, holdfast_worker;
