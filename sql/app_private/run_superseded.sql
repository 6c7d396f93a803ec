create or replace function app_private.run_superseded(run app.job_runs) returns boolean
language sql
stable
set search_path = ''
as $$
  -- No run is made before its turn begins, so those of newer turns have ids from there on.
  select (run).slot is not null and exists (
    select from app.job_runs as r
    where r.tenant_id = (run).tenant_id
      and r.id >= app_private.uuid_v7_floor(pg_catalog.to_timestamp((run).slot))
      and r.kind = (run).kind
      and r.slot > (run).slot
      and r.state = 'COMPLETED')
$$;

comment on function app_private.run_superseded is
  'Whether a newer turn of the same tenant and kind has completed: what the run would do again has been done since.';

grant execute on function app_private.run_superseded to holdfast_system;
