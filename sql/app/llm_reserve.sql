create or replace function app.llm_reserve(
  tenant_id uuid, ticket text, idempotency_key text, provider text, model text,
  input_tokens_bound bigint, max_output_tokens bigint,
  run_id uuid default null, attempt integer default 1, ttl interval default interval '2 minutes')
returns table (id uuid, status text, estimated_cost_nanousd bigint, expires_at timestamptz, replayed boolean)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
declare
  v_fingerprint text := pg_catalog.md5(pg_catalog.jsonb_build_array(
    provider, model, input_tokens_bound, max_output_tokens, run_id, attempt)::text);
  v_at          timestamptz := pg_catalog.clock_timestamp();
  v_id          uuid := app_private.uuid_v7();
  v_price       record;
  v_needed      numeric;
  v_known       app.llm_reservations;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.llm_request_check(idempotency_key, input_tokens_bound, max_output_tokens, attempt, ttl);
  -- Read at the commit, which a paid call follows; a setting of the function would be gone by then.
  perform pg_catalog.set_config('synchronous_commit', 'on', true);

  -- The key comes first: a replay is answered before any other check, and two racing callers make one hold.
  insert into app.llm_reservation_keys as k (tenant_id, idempotency_key, fingerprint, reservation_id)
  values (llm_reserve.tenant_id, llm_reserve.idempotency_key, v_fingerprint, v_id)
  on conflict on constraint llm_reservation_keys_pkey do nothing;
  if not found then
    v_known := app_private.llm_reservation_replay(tenant_id, idempotency_key, v_fingerprint);
    return query select v_known.id, v_known.status, v_known.estimated_cost_nanousd, v_known.expires_at, true;
    return;
  end if;

  if run_id is not null and not exists (
    select from app.job_runs as r where r.tenant_id = llm_reserve.tenant_id and r.id = llm_reserve.run_id)
  then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;

  select p.* into v_price from app_private.llm_price_of(provider, model, v_at) as p;
  v_needed := app_private.llm_cost_nanousd(input_tokens_bound, 0, max_output_tokens,
    greatest(v_price.input_rate, v_price.cached_rate), null, v_price.output_rate);

  insert into app.llm_reservations (tenant_id, id, provider, model, run_id, attempt, input_tokens_bound,
    max_output_tokens, estimated_cost_nanousd, price_ids, expires_at)
  values (llm_reserve.tenant_id, v_id, llm_reserve.provider, llm_reserve.model, llm_reserve.run_id,
    llm_reserve.attempt, llm_reserve.input_tokens_bound, llm_reserve.max_output_tokens, v_needed::bigint,
    v_price.price_ids, v_at + ttl);

  -- The hot rows are touched last, so that their locks are short.
  if not app_private.llm_admit(tenant_id, v_id, v_needed::bigint, v_at) then
    perform app_private.llm_refuse(tenant_id, v_at, v_needed,
      app_private.llm_cost_nanousd(input_tokens_bound, 0, 0,
        greatest(v_price.input_rate, v_price.cached_rate), null, 0),
      v_price.output_rate);
  end if;

  return query select v_id, 'RESERVED', v_needed::bigint, v_at + ttl, false;
end
$$;

comment on function app.llm_reserve is
  'Holds the most that a model call can cost, in every budget of the tenant or in none, before the call is made. The '
  'same key and request answer the first hold again. Raises LB101 budget_exceeded, LB102 no_price, LB103, LB105, '
  'JB101 for a run_id that is no run of the tenant.';

grant execute on function app.llm_reserve to holdfast_service, holdfast_worker;
