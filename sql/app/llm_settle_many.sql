create or replace function app.llm_settle_many(
  tenant_id uuid, ticket text, settles jsonb, lock_timeout_ms integer default 3000)
returns table (
  n integer, id uuid, status text, cost_nanousd bigint, over_hold_nanousd bigint,
  refusal text, detail jsonb, hint text)
language plpgsql
security definer  -- the shell may not write usage
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_left  app_private.llm_settle[];
  v_step  app_private.llm_settle[];
  v_done  app_private.llm_settle[] := array[]::app_private.llm_settle[];
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.llm_settings_set(lock_timeout_ms);
  v_left := app_private.llm_settles_read(settles);

  begin
    -- Of one hold one at a time, in their order; all that the later ones need is locked before the first.
    perform app_private.llm_settles_lock(tenant_id, v_left);
    while pg_catalog.cardinality(v_left) > 0 loop
      v_step := array(
        select distinct on (s.reservation_id) s from unnest(v_left) as s order by s.reservation_id, s.n);
      v_done := v_done || app_private.llm_settles_apply(tenant_id, v_step);
      exit when pg_catalog.cardinality(v_step) = pg_catalog.cardinality(v_left);
      v_left := array(select s from unnest(v_left) as s except select s from unnest(v_step) as s);
    end loop;
  exception when lock_not_available then
    perform app_private.llm_busy();
  end;

  return query
  select s.n, s.reservation_id, s.status, s.cost_nanousd::bigint, s.over_hold_nanousd::bigint,
         s.refusal, s.detail,
         case when s.refusal is not null then app_private.llm_hint(s.refusal, s.detail) end
  from unnest(v_done) as s
  order by s.n;
end
$$;

comment on function app.llm_settle_many is
  'Replaces holds by what their calls did cost, at the prices of the moment they were reserved: a JSON array of up to 1,000 '
  'objects with reservation_id, input_tokens, output_tokens, and where there are such cached_input_tokens, '
  'cache_write_5m_tokens, cache_write_1h_tokens, reasoning_tokens, images, tool_calls, final (false: a stream so far; the '
  'numbers are of the whole call each time), source (provider, or estimated), provider_request_id, response_model, '
  'finish_reason, simulated, of_client (true: the hold of a run is not found). Late is accepted, and more than the hold is '
  'recorded. One that is refused fails no other. '
  'Raises LB105 for what is no list, LB301 when others keep the budget locked for longer than lock_timeout_ms.';

grant execute on function app.llm_settle_many to holdfast_service, holdfast_worker;
