create or replace function app.analysis_request(
  tenant_id uuid, ticket text, provider text, model text, input_tokens_bound bigint, max_output_tokens bigint,
  idempotency_key text default null)
returns table (id uuid, run_id uuid, status text, created_at timestamptz, replayed boolean)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_run_id constant uuid := app_private.uuid_v7();
  v_known  uuid;
  v_quote  app_private.llm_ask;
begin
  perform app.enter(tenant_id, ticket);

  v_known := app_private.job_run_key_take(tenant_id, idempotency_key, v_run_id,
    pg_catalog.jsonb_build_array('analysis')::text);
  if v_known is null then
    v_quote := app_private.llm_quote(tenant_id, pg_catalog.jsonb_build_object(
      'provider', provider, 'model', model, 'input_tokens_bound', input_tokens_bound,
      'max_output_tokens', max_output_tokens));
    if v_quote.refusal is not null then
      perform app_private.llm_raise(v_quote.refusal, v_quote.detail);
    end if;

    perform app_private.run_add(tenant_id, v_run_id, 'analysis', '{}', pg_catalog.now(), 0::smallint);
    perform app_private.tenant_active(tenant_id);
  end if;

  return query
  select r.id, r.id, app_private.analysis_status(r.state), r.created_at, v_known is not null
  from app.job_runs as r
  where r.tenant_id = analysis_request.tenant_id and r.id = coalesce(v_known, v_run_id);
end
$$;

comment on function app.analysis_request is
  'Asks for an analysis now. Refuses at once, before a run exists, when the budget cannot hold the most that its call '
  'may cost. The same key answers the first analysis again, replayed. Raises LB101, LB102, LB103, LB105, '
  'JB103 when too many wait.';

grant execute on function app.analysis_request to holdfast_service, holdfast_worker;
