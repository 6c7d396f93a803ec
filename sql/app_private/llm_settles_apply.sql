create or replace function app_private.llm_settles_apply(tenant_id uuid, settles app_private.llm_settle[])
returns app_private.llm_settle[]
language plpgsql
set search_path = ''
as $$
declare
  v_at     constant timestamptz := pg_catalog.clock_timestamp();
  v_held   app.llm_reservations[];
  v_judged app_private.llm_settle[];
begin
  v_held := array(
    select r
    from app.llm_reservations as r
    where r.tenant_id = llm_settles_apply.tenant_id
      and r.id = any (array(select s.reservation_id from unnest(settles) as s where s.refusal is null))
    order by r.id
    for no key update);
  v_judged := app_private.llm_settles_judge(tenant_id, settles, v_held);

  update app.llm_reservations as r
  set status = s.status,
      settled_nanousd = s.cost_nanousd,
      cost_nanousd = case when s.status = 'APPLIED' then s.cost_nanousd end,
      presumed_at = case when s.status = 'PRESUMED' then v_at else r.presumed_at end,  -- it was heard of
      used = case when s.final then r.used else pg_catalog.to_jsonb(s.used) end,
      closed_at = case when s.status = 'APPLIED' then coalesce(r.closed_at, v_at) else r.closed_at end
  from unnest(v_judged) as s
  where s.writes and r.tenant_id = llm_settles_apply.tenant_id and r.id = s.reservation_id;

  insert into app.llm_usage (tenant_id, reservation_id, run_id, provider, model, response_model, status,
    input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
    reasoning_tokens, images, tool_calls, cost_nanousd, over_hold_nanousd, provider_request_id, finish_reason,
    source, simulated)
  select llm_settles_apply.tenant_id, s.reservation_id, s.run_id, s.provider, s.model, s.response_model,
         case when s.closed then 'ADJUSTED' else 'SETTLED' end,
         (s.used).input, (s.used).cached_input, (s.used).cache_write_5m, (s.used).cache_write_1h,
         (s.used).output, (s.used).reasoning, (s.used).image, (s.used).tool_call,
         s.cost_nanousd - case when s.closed then s.before_nanousd else 0 end,
         s.over_hold_nanousd - case when s.closed
           then greatest(0, s.before_nanousd - s.hold_nanousd) else 0 end,
         s.provider_request_id, s.finish_reason, s.source, s.simulated
  from unnest(v_judged) as s
  where s.writes and s.final;

  return v_judged;
end
$$;

comment on function app_private.llm_settles_apply is
  'Settles holds, each once: locks them, judges them, and writes what they cost. The counters follow by the trigger of '
  'app.llm_reservations.';
