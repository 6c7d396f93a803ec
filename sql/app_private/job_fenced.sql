create or replace function app_private.job_fenced(tenant_id uuid, run_id uuid, attempt integer) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  select r.* into v_run from app.job_runs as r where r.tenant_id = job_fenced.tenant_id and r.id = run_id;
  if not found then
    perform app_private.job_run_missing();
  end if;
  raise exception using
    errcode = 'JB201',
    message = 'job_run_fenced',
    detail  = pg_catalog.jsonb_build_object('run_id', run_id, 'attempt', attempt,
                'state', v_run.state, 'now_at', v_run.attempt),
    hint    = 'Another attempt took over, or the run has ended. Drop what this one did.';
end
$$;

comment on function app_private.job_fenced is
  'Raises JB201 for an attempt that no longer runs, JB101 for a run that is not there.';
