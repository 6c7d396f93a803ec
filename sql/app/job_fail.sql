create or replace function app.job_fail(
  tenant_id uuid, ticket text, run_id uuid, attempt integer, error_code text, error text)
returns table (state text, available_at timestamptz)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_now timestamptz := pg_catalog.clock_timestamp();
begin
  perform app.enter(tenant_id, ticket);
  if coalesce(pg_catalog.length(error_code), 0) not between 1 and 100 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', 'error_code'),
      hint    = 'A failure has a name of 1 to 100 characters: people and metrics look for it.';
  end if;

  -- All from the row that is updated: whoever cancels it meanwhile is heard.
  update app.job_runs as r
  set state = app_private.failed_state(r, k, job_fail.error_code),
      failure_count = r.failure_count
        + (app_private.failed_state(r, k, job_fail.error_code) <> 'PENDING')::integer,
      error_code = case when r.cancel_requested_at is null then job_fail.error_code else 'job_cancelled' end,
      error = pg_catalog.left(job_fail.error, 2000),
      lease_until = null,
      available_at = v_now + case when app_private.failed_state(r, k, job_fail.error_code) = 'FAILED'
        then app_private.job_backoff(r.failure_count + 1, k.backoff_base_ms, k.backoff_cap_ms)
        else interval '0' end,
      token_at = v_now,
      finished_at = case
        when app_private.failed_state(r, k, job_fail.error_code) = 'DEAD_LETTER' then v_now end,
      discarded_at = case
        when r.cancel_requested_at is not null or job_fail.error_code = 'job_cancelled' then v_now end
  from app.job_kinds as k
  where r.tenant_id = job_fail.tenant_id
    and r.id = run_id
    and r.attempt = job_fail.attempt
    and r.state = 'RUNNING'
    and k.kind = r.kind
  returning r.state, r.available_at into state, available_at;
  if not found then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;

  if state <> 'DEAD_LETTER' then
    perform app_private.runs_token(array[tenant_id], array[run_id]);
  end if;
  return next;
end
$$;

comment on function app.job_fail is
  'Ends an attempt that failed: FAILED, with its next token after a wait that doubles, or DEAD_LETTER when '
  'its retries are used up or the code is not one to retry. The code shutdown is no failure: its worker was '
  'stopped, and the run is PENDING again, with a token at once. The code job_cancelled ends it for good, put aside. Raises JB101, JB201, OP102.';

grant execute on function app.job_fail to holdfast_worker;
