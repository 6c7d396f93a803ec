create or replace function app_private.run_replay(
  run app.job_runs, actor text, reason text, due_at timestamptz)
returns app.job_runs
language plpgsql
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  -- It is parked: app_private.runs_admit gives it its place, with those that wait already. The attempt counts on.
  update app.job_runs as r
  set state = 'PENDING',
      failure_count = 0,
      crash_count = 0,
      replay_count = r.replay_count + 1,
      worker = null,
      available_at = due_at,
      token_at = null,
      finished_at = null,
      cancel_requested_at = null,
      discarded_at = null,
      progress = null,
      progress_text = null,
      actor = pg_catalog.left(run_replay.actor, 100),
      reason = run_replay.reason
  where r.tenant_id = (run).tenant_id and r.id = (run).id
  returning r.* into v_run;

  perform app_private.event_add((run).tenant_id, 'run.replayed', (run).id, pg_catalog.jsonb_build_object(
    'kind', (run).kind, 'actor', v_run.actor, 'reason', v_run.reason, 'replay', v_run.replay_count));
  return v_run;
end
$$;

comment on function app_private.run_replay is
  'Makes a locked dead letter pending again, as the same run with all its retries, due at due_at and parked until then.';

grant execute on function app_private.run_replay to holdfast_system;
