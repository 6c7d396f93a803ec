create or replace function app_private.run_lock(tenant_id uuid, run_id uuid) returns app.job_runs
language plpgsql
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  select r.* into v_run
  from app.job_runs as r
  where r.tenant_id = run_lock.tenant_id and r.id = run_lock.run_id
  for no key update;
  if not found then
    perform app_private.job_run_missing();
  end if;
  return v_run;
end
$$;

comment on function app_private.run_lock is 'Locks a run and answers it as it then stands. Raises JB101.';

grant execute on function app_private.run_lock to holdfast_system;
