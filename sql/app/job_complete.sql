create or replace function app.job_complete(
  tenant_id uuid, ticket text, run_id uuid, attempt integer, result jsonb)
returns text
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_kind text;
begin
  perform app.enter(tenant_id, ticket);

  -- The fence comes first: an attempt that was overtaken applies nothing.
  update app.job_runs as r
  set state = 'COMPLETED',
      result = job_complete.result,
      error_code = null,
      error = null,
      lease_until = null,
      progress = 1,
      finished_at = pg_catalog.clock_timestamp()
  where r.tenant_id = job_complete.tenant_id
    and r.id = run_id
    and r.attempt = job_complete.attempt
    and r.state = 'RUNNING'
  returning r.kind into v_kind;
  if not found then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;

  perform app_private.job_apply(tenant_id, run_id, v_kind, result);
  return 'COMPLETED';
end
$$;

comment on function app.job_complete is
  'Ends an attempt with its result, which is applied in the same transaction: both or neither. Raises JB101, JB201.';

grant execute on function app.job_complete to holdfast_worker, holdfast_service;
