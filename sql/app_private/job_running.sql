create or replace function app_private.job_running(tenant_id uuid, run_id uuid, attempt integer) returns void
language plpgsql
set search_path = ''
as $$
begin
  if not exists (
    select from app.job_runs as r
    where r.tenant_id = job_running.tenant_id
      and r.id = run_id
      and r.attempt = job_running.attempt
      and r.state = 'RUNNING')
  then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;
end
$$;

comment on function app_private.job_running is
  'Passes while this attempt of the run is the one that runs. Raises JB101, JB201.';
