create or replace function app_private.llm_charged_whole(held app.llm_reservations) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_cost constant bigint := greatest(held.estimated_cost_nanousd, held.settled_nanousd);
begin
  update app.llm_reservations as r
  set status = 'APPLIED', cost_nanousd = v_cost, settled_nanousd = v_cost,
      closed_at = pg_catalog.clock_timestamp(), reason = 'policy: charge_worst_case'
  where r.tenant_id = held.tenant_id and r.id = held.id;

  insert into app.llm_usage (tenant_id, reservation_id, run_id, provider, model, input_tokens, output_tokens,
    images, tool_calls, cost_nanousd, over_hold_nanousd, source)
  values (held.tenant_id, held.id, held.run_id, held.provider, held.model, held.input_tokens_bound,
    held.max_output_tokens, held.images, held.tool_calls, v_cost, v_cost - held.estimated_cost_nanousd,
    'estimated');
end
$$;

comment on function app_private.llm_charged_whole is
  'Charges a PRESUMED hold with all that its call could have cost.';

grant execute on function app_private.llm_charged_whole to holdfast_system;
