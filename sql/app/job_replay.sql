create or replace function app.job_replay(
  tenant_id uuid, ticket text, run_id uuid, actor text, reason text, force boolean default false)
returns table (state text, available_at timestamptz, replay_count integer)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.run_actor_check(actor, reason);

  v_run := app_private.run_lock(tenant_id, run_id);
  if v_run.state <> 'DEAD_LETTER' then
    perform app_private.run_not_dead(v_run);
  elsif force is not true and app_private.run_superseded(v_run) then
    raise exception using
      errcode = 'JB204',
      message = 'replay_superseded',
      detail  = pg_catalog.jsonb_build_object('run_id', run_id, 'slot', v_run.slot),
      hint    = 'A newer turn of the same kind has completed since. force replays this one all the same.';
  end if;

  v_run := app_private.run_replay(v_run, actor, reason, pg_catalog.clock_timestamp());
  perform app_private.runs_admit(array[tenant_id], array[v_run.kind]);
  return query select v_run.state, v_run.available_at, v_run.replay_count;
end
$$;

comment on function app.job_replay is
  'Makes a dead letter of the tenant pending again, as the same run, with all its retries. Raises JB101, JB204 when a newer turn '
  'of its kind has completed, unless forced, JB205 when it is no dead letter, OP101, OP102.';

grant execute on function app.job_replay to holdfast_service, holdfast_worker;
