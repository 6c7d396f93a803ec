create or replace function app_private.llm_written_off(held app.llm_reservations, reason text) returns void
language plpgsql
set search_path = ''
as $$
begin
  update app.llm_reservations as r
  set status = 'WRITTEN_OFF',
      reason = pg_catalog.left(llm_written_off.reason, 200),
      closed_at = pg_catalog.clock_timestamp()
  where r.tenant_id = held.tenant_id and r.id = held.id;

  -- What its stream had settled stays spent.
  insert into app.llm_usage (tenant_id, reservation_id, run_id, provider, model, status, input_tokens,
    cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
    images, tool_calls, cost_nanousd, source)
  select held.tenant_id, held.id, held.run_id, held.provider, held.model, 'PARTIAL', u.input, u.cached_input,
         u.cache_write_5m, u.cache_write_1h, u.output, u.reasoning, u.image, u.tool_call,
         held.settled_nanousd, 'estimated'
  from pg_catalog.jsonb_populate_record(null::app_private.llm_units, held.used) as u
  where held.settled_nanousd > 0;
end
$$;

comment on function app_private.llm_written_off is
  'Gives back what of a PRESUMED hold was not settled. Raises LB201 by the transition trigger.';

grant execute on function app_private.llm_written_off to holdfast_system;
