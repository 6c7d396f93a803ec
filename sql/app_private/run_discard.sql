create or replace function app_private.run_discard(run app.job_runs, actor text, reason text)
returns app.job_runs
language plpgsql
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  if (run).discarded_at is not null then
    return run;
  elsif (run).state <> 'DEAD_LETTER' then
    perform app_private.run_not_dead(run);
  end if;

  update app.job_runs as r
  set discarded_at = pg_catalog.clock_timestamp(),
      actor = pg_catalog.left(run_discard.actor, 100),
      reason = run_discard.reason
  where r.tenant_id = (run).tenant_id and r.id = (run).id
  returning r.* into v_run;

  perform app_private.event_add((run).tenant_id, 'run.discarded', (run).id, pg_catalog.jsonb_build_object(
    'kind', (run).kind, 'actor', v_run.actor, 'reason', v_run.reason));
  return v_run;
end
$$;

comment on function app_private.run_discard is
  'Puts a locked dead letter aside: it is kept, and no longer one to look at. A second call changes nothing. Raises JB205.';

grant execute on function app_private.run_discard to holdfast_system;
