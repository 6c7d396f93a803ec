create or replace function app_private.llm_settle_again(
  held app.llm_reservations, settle app_private.llm_settle)
returns app_private.llm_settle
language plpgsql
stable
set search_path = ''
as $$
begin
  select held.status, held.settled_nanousd, greatest(0, held.settled_nanousd - held.estimated_cost_nanousd)
  into settle.status, settle.cost_nanousd, settle.over_hold_nanousd
  from app.llm_usage as u
  where u.tenant_id = held.tenant_id and u.reservation_id = held.id and u.status in ('SETTLED', 'ADJUSTED')
    and settle.final
    and (u.input_tokens, u.cached_input_tokens, u.cache_write_5m_tokens, u.cache_write_1h_tokens,
         u.output_tokens, u.reasoning_tokens, u.images, u.tool_calls)
      = ((settle.used).input, (settle.used).cached_input, (settle.used).cache_write_5m,
         (settle.used).cache_write_1h, (settle.used).output, (settle.used).reasoning, (settle.used).image,
         (settle.used).tool_call);
  if not found then
    settle.refusal := 'reservation_closed';
  end if;
  return settle;
end
$$;

comment on function app_private.llm_settle_again is
  'A settle of a hold that is settled: the first answer where it says the same, else it is refused.';
