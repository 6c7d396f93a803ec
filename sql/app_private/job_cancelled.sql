create or replace function app_private.job_cancelled(run_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'JB203',
    message = 'job_cancelled',
    detail  = pg_catalog.jsonb_build_object('run_id', run_id),
    hint    = 'Its end was asked for: stop the work and let the worker write it down.';
end
$$;

comment on function app_private.job_cancelled is 'Raises JB203: somebody asked for the end of this run.';
