create or replace function app.llm_reserve(
  tenant_id uuid, ticket text, idempotency_key text, provider text, model text,
  input_tokens_bound bigint, max_output_tokens bigint,
  run_id uuid default null, attempt integer default 1, ttl interval default interval '2 minutes',
  min_output_tokens bigint default null, service_tier text default 'standard', images integer default 0,
  tool_calls integer default 0, api_key text default null, user_id text default null,
  tags text[] default '{}')
returns table (
  id uuid, status text, estimated_cost_nanousd bigint, expires_at timestamptz, replayed boolean,
  granted_output_tokens bigint)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
declare
  v_hold record;
begin
  perform app.enter(tenant_id, ticket);

  select h.* into v_hold
  from app.llm_reserve_many(tenant_id, ticket, pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object(
    'idempotency_key', idempotency_key, 'provider', provider, 'model', model,
    'input_tokens_bound', input_tokens_bound, 'max_output_tokens', max_output_tokens,
    'min_output_tokens', min_output_tokens, 'service_tier', service_tier, 'images', images,
    'tool_calls', tool_calls, 'api_key', api_key, 'user_id', user_id, 'tags', tags,
    'run_id', run_id, 'attempt', coalesce(attempt, -1),
    'ttl_ms', coalesce(extract(epoch from ttl) * 1000, -1)))) as h;
  if v_hold.refusal is not null then
    perform app_private.llm_raise(v_hold.refusal, v_hold.detail);
  end if;

  return query
  select v_hold.id, v_hold.status, v_hold.estimated_cost_nanousd, v_hold.expires_at, v_hold.replayed,
         v_hold.max_output_tokens;
end
$$;

comment on function app.llm_reserve is
  'Holds the most that a model call can cost, as app.llm_reserve_many does for many. The same key and request answer the '
  'first hold again. granted_output_tokens is what may be sent as max_tokens: less than was asked for where '
  'min_output_tokens allows it. Raises LB101 budget_exceeded, LB102 no_price, LB103, LB105, JB101 for a run_id that is no '
  'run of the tenant.';

grant execute on function app.llm_reserve to holdfast_service, holdfast_worker;
