create or replace function app_private.run_cancel(run app.job_runs, actor text, reason text, force boolean)
returns app.job_runs
language plpgsql
set search_path = ''
as $$
declare
  v_now   constant timestamptz := pg_catalog.clock_timestamp();
  v_waits constant boolean := (run).state = 'RUNNING' and not force;
  v_run   app.job_runs;
begin
  if (run).state = 'DEAD_LETTER' and (run).error_code = 'job_cancelled'
    or v_waits and (run).cancel_requested_at is not null
  then
    return run;
  elsif (run).finished_at is not null then
    raise exception using
      errcode = 'JB206',
      message = 'job_ended',
      detail  = pg_catalog.jsonb_build_object('run_id', (run).id, 'state', (run).state),
      hint    = 'It has ended already. A dead letter is put aside with job_discard.';
  end if;

  if v_waits then
    update app.job_runs as r
    set cancel_requested_at = v_now,
        actor = pg_catalog.left(run_cancel.actor, 100),
        reason = run_cancel.reason
    where r.tenant_id = (run).tenant_id and r.id = (run).id
    returning r.* into v_run;
  else
    -- An attempt that still runs is fenced: what it does from now on is rolled back.
    update app.job_runs as r
    set state = 'DEAD_LETTER',
        cancel_requested_at = coalesce(r.cancel_requested_at, v_now),
        error_code = 'job_cancelled',
        error = 'It was cancelled.',
        lease_until = null,
        finished_at = v_now,
        discarded_at = v_now,
        actor = pg_catalog.left(run_cancel.actor, 100),
        reason = run_cancel.reason
    where r.tenant_id = (run).tenant_id and r.id = (run).id
    returning r.* into v_run;
  end if;

  if v_waits then  -- the end itself has its event, whoever brings it about
    perform app_private.event_add((run).tenant_id, 'run.cancel_requested', (run).id,
      pg_catalog.jsonb_build_object('kind', (run).kind, 'actor', v_run.actor, 'reason', v_run.reason));
  end if;
  return v_run;
end
$$;

comment on function app_private.run_cancel is
  'Ends a locked run for good: at once when it waits, or with force, which fences its attempt; else its worker is told at its next '
  'beat, within 5 s. Cancelled once, it stays so: a second call changes nothing. Raises JB206 when it has ended otherwise.';

grant execute on function app_private.run_cancel to holdfast_system;
