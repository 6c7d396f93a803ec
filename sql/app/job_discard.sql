create or replace function app.job_discard(tenant_id uuid, ticket text, run_id uuid, actor text, reason text)
returns table (state text, discarded_at timestamptz)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.run_actor_check(actor, reason);

  v_run := app_private.run_discard(app_private.run_lock(tenant_id, run_id), actor, reason);
  return query select v_run.state, v_run.discarded_at;
end
$$;

comment on function app.job_discard is
  'Puts a dead letter of the tenant aside. A second call changes nothing. Raises JB101, JB205, OP101, OP102.';

grant execute on function app.job_discard to holdfast_service, holdfast_worker;
