create or replace function app_private.run_not_dead(run app.job_runs) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'JB205',
    message = 'job_not_dead',
    detail  = pg_catalog.jsonb_build_object('run_id', (run).id, 'state', (run).state),
    hint    = 'Only a run in the state DEAD_LETTER is replayed or put aside.';
end
$$;

comment on function app_private.run_not_dead is 'Raises JB205: the run is no dead letter.';

grant execute on function app_private.run_not_dead to holdfast_system;
