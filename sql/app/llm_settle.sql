create or replace function app.llm_settle(
  tenant_id uuid, ticket text, reservation_id uuid, input_tokens bigint, output_tokens bigint,
  cached_input_tokens bigint default 0, provider_request_id text default null,
  response_model text default null, finish_reason text default null, simulated boolean default false)
returns table (id uuid, status text, cost_nanousd bigint, over_hold_nanousd bigint)
language plpgsql
security definer  -- the shell may not write usage
set search_path = ''
as $$
declare
  v_held app.llm_reservations;
  v_cost numeric;
  v_over bigint;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.llm_usage_check(input_tokens, cached_input_tokens, output_tokens);
  v_held := app_private.llm_reservation_lock(tenant_id, reservation_id);

  -- A second, identical settle gets the first answer; a different one is refused by the transition trigger below.
  if v_held.status = 'APPLIED' then
    return query
    select u.reservation_id, 'APPLIED', u.cost_nanousd, u.over_hold_nanousd
    from app.llm_usage as u
    where u.tenant_id = v_held.tenant_id and u.reservation_id = v_held.id
      and (u.input_tokens, u.cached_input_tokens, u.output_tokens)
        = (llm_settle.input_tokens, llm_settle.cached_input_tokens, llm_settle.output_tokens);
    if found then
      return;
    end if;
    perform app_private.llm_closed(v_held);
  end if;

  select app_private.llm_cost_nanousd(llm_settle.input_tokens, llm_settle.cached_input_tokens,
           llm_settle.output_tokens,
           max(p.usd_per_million) filter (where p.unit = 'input'),
           max(p.usd_per_million) filter (where p.unit = 'cached_input'),
           max(p.usd_per_million) filter (where p.unit = 'output'))
  into v_cost
  from app.llm_prices as p
  where p.id = any (v_held.price_ids);
  v_over := greatest(0, v_cost - v_held.estimated_cost_nanousd);

  update app.llm_reservations as r
  set status = 'APPLIED', cost_nanousd = v_cost, closed_at = pg_catalog.clock_timestamp()
  where r.tenant_id = v_held.tenant_id and r.id = v_held.id;

  insert into app.llm_usage (tenant_id, reservation_id, run_id, provider, model, response_model, input_tokens,
    cached_input_tokens, output_tokens, cost_nanousd, over_hold_nanousd, provider_request_id, finish_reason,
    simulated)
  values (v_held.tenant_id, v_held.id, v_held.run_id, v_held.provider, v_held.model,
    pg_catalog.left(llm_settle.response_model, 200), llm_settle.input_tokens, llm_settle.cached_input_tokens,
    llm_settle.output_tokens, v_cost, v_over, pg_catalog.left(llm_settle.provider_request_id, 200),
    pg_catalog.left(llm_settle.finish_reason, 50), llm_settle.simulated);

  perform app_private.llm_move(tenant_id, v_held.id, v_held.status, v_held.estimated_cost_nanousd, 'APPLIED',
    v_cost::bigint);

  return query select v_held.id, 'APPLIED', v_cost::bigint, v_over;
end
$$;

comment on function app.llm_settle is
  'Replaces a hold by what the call did cost, at the prices of the moment it was reserved. A presumed hold may be '
  'settled late, and a cost above the hold is recorded, never hidden. Raises LB104, LB105, LB201.';

grant execute on function app.llm_settle to holdfast_service, holdfast_worker;
