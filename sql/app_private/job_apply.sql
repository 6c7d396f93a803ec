create or replace function app_private.job_apply(tenant_id uuid, run_id uuid, kind text, result jsonb)
returns void
language plpgsql
set search_path = ''
as $$
begin
  -- What a kind of job writes as its last act, in the transaction that completes the run.
  if kind = 'analysis' then
    perform app_private.analysis_apply(tenant_id, run_id, result);
  end if;
end
$$;

comment on function app_private.job_apply is 'Applies the result of a run, by its kind; called by job_complete alone. A kind that is here is in '
  'app_private.job_applies too.';
