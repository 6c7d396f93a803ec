create or replace function app.job_fail(
  tenant_id uuid, ticket text, run_id uuid, attempt integer, error_code text, error text)
returns table (state text, available_at timestamptz)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
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

  update app.job_runs as r
  set state = v.state,
      failure_count = r.failure_count + (v.state <> 'PENDING')::integer,
      error_code = job_fail.error_code,
      error = pg_catalog.left(job_fail.error, 2000),
      lease_until = null,
      available_at = v_now + case
        when v.state = 'PENDING' then interval '0'
        else app_private.job_backoff(r.failure_count + 1, k.backoff_base_ms, k.backoff_cap_ms) end,
      token_at = v_now,
      finished_at = case when v.state = 'DEAD_LETTER' then v_now end
  from app.job_runs as x
  join app.job_kinds as k on k.kind = x.kind
  cross join lateral (select case
    when job_fail.error_code = 'shutdown' then 'PENDING'
    when x.failure_count >= k.max_retries or job_fail.error_code = any (k.non_retryable_codes)
      or job_fail.error_code ~ '^sqlstate_(22|23|42)'  -- the same data would fail again
    then 'DEAD_LETTER'
    else 'FAILED' end as state) as v
  where x.tenant_id = job_fail.tenant_id
    and x.id = run_id
    and r.tenant_id = x.tenant_id
    and r.id = x.id
    and r.attempt = job_fail.attempt
    and r.state = 'RUNNING'
  returning r.state, r.available_at into state, available_at;
  if not found then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;

  if state = 'DEAD_LETTER' then
    perform app_private.event_add(tenant_id, 'run.dead_letter', run_id,
      pg_catalog.jsonb_build_object('error_code', error_code));
  else
    perform app_private.tokens_add(array[run_id], array[tenant_id]);
  end if;
  return next;
end
$$;

comment on function app.job_fail is
  'Ends an attempt that failed: FAILED, with its next token after a wait that doubles, or DEAD_LETTER when '
  'its retries are used up or the code is not one to retry. The code shutdown is no failure: its worker was '
  'stopped, and the run is PENDING again, with a token at once. Raises JB101, JB201, OP102.';

grant execute on function app.job_fail to holdfast_worker;
