create or replace function app.job_cancel(
  tenant_id uuid, ticket text, run_id uuid, actor text, reason text, force boolean default false)
returns table (state text, cancel_requested_at timestamptz, finished_at timestamptz, from_state text)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_found app.job_runs;
  v_run   app.job_runs;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.run_actor_check(actor, reason);

  v_found := app_private.run_lock(tenant_id, run_id);
  v_run := app_private.run_cancel(v_found, actor, reason, coalesce(force, false));
  return query select v_run.state, v_run.cancel_requested_at, v_run.finished_at,
                      nullif(v_found.state, v_run.state);
end
$$;

comment on function app.job_cancel is
  'Ends a run: at once while it waits, within 20 s while it runs, or at once with force, which drops what it has done. Answers '
  'how it stands, and in from_state what it was before, null where that is the same; a second call changes nothing. Raises '
  'JB101, JB206 when it has ended otherwise, OP101, OP102.';

grant execute on function app.job_cancel to holdfast_service, holdfast_worker;
