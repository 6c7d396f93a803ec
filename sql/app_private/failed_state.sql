create or replace function app_private.failed_state(run app.job_runs, kind app.job_kinds, error_code text)
returns text
language sql
immutable
return case
  when (run).cancel_requested_at is not null or error_code = 'job_cancelled' then 'DEAD_LETTER'
  when error_code = 'shutdown' then 'PENDING'
  when (run).failure_count >= (kind).max_retries or error_code = any ((kind).non_retryable_codes)
    or error_code ~ '^sqlstate_(22|23|42)'  -- the same data would fail again
    or error_code in ('job_input_invalid', 'job_transaction_lost')  -- and so would the same task
  then 'DEAD_LETTER'
  else 'FAILED' end;

comment on function app_private.failed_state is
  'What becomes of a run whose attempt ended with this error: PENDING when its worker was stopped, DEAD_LETTER when it was '
  'cancelled, when its retries are used up, or when the error is not one to try again; else FAILED.';
