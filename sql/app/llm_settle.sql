create or replace function app.llm_settle(
  tenant_id uuid, ticket text, reservation_id uuid, input_tokens bigint, output_tokens bigint,
  cached_input_tokens bigint default 0, provider_request_id text default null,
  response_model text default null, finish_reason text default null, simulated boolean default false,
  final boolean default true, cache_write_5m_tokens bigint default 0, cache_write_1h_tokens bigint default 0,
  reasoning_tokens bigint default 0, images integer default 0, tool_calls integer default 0,
  source text default 'provider')
returns table (id uuid, status text, cost_nanousd bigint, over_hold_nanousd bigint)
language plpgsql
security definer  -- the shell may not write usage
set search_path = ''
as $$
declare
  v_settled record;
begin
  perform app.enter(tenant_id, ticket);

  select s.* into v_settled
  from app.llm_settle_many(tenant_id, ticket, pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object(
    'reservation_id', reservation_id, 'final', final, 'input_tokens', input_tokens,
    'cached_input_tokens', coalesce(cached_input_tokens, -1), 'cache_write_5m_tokens', cache_write_5m_tokens,
    'cache_write_1h_tokens', cache_write_1h_tokens, 'output_tokens', output_tokens,
    'reasoning_tokens', reasoning_tokens, 'images', images, 'tool_calls', tool_calls, 'source', source,
    'provider_request_id', provider_request_id, 'response_model', response_model,
    'finish_reason', finish_reason, 'simulated', simulated))) as s;
  if v_settled.refusal is not null then
    perform app_private.llm_raise(v_settled.refusal, v_settled.detail);
  end if;

  return query
  select v_settled.id, v_settled.status, v_settled.cost_nanousd, v_settled.over_hold_nanousd;
end
$$;

comment on function app.llm_settle is
  'Replaces a hold by what the call did cost, at the prices of the moment it was reserved. A presumed hold may be '
  'settled late, and a cost above the hold is recorded, never hidden. final => false: a stream so far, which stays held for '
  'the rest. Raises LB104, LB105, LB201.';

grant execute on function app.llm_settle to holdfast_service, holdfast_worker;
