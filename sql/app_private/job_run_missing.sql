create or replace function app_private.job_run_missing() returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'JB101',
    message = 'job_run_not_found',
    hint    = 'Use the id of a run of this tenant; ops.jobs lists them.';
end
$$;

comment on function app_private.job_run_missing is 'Raises JB101, alike for a run that is not there and one of another tenant.';

grant execute on function app_private.job_run_missing to holdfast_system;
