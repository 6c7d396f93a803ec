create or replace function app.job_get(tenant_id uuid, ticket text, run_id uuid)
returns table (
  kind text, state text, slot bigint, attempt integer, failure_count integer, crash_count integer,
  replay_count integer, priority smallint, progress real, progress_text text, input jsonb, result jsonb,
  error_code text, error text, available_at timestamptz, created_at timestamptz, started_at timestamptz,
  finished_at timestamptz, cancel_requested_at timestamptz, discarded_at timestamptz, actor text, reason text,
  events jsonb)
language plpgsql
security definer  -- the service role may not read runs
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  return query
  select r.kind, r.state, r.slot, r.attempt, r.failure_count, r.crash_count, r.replay_count, r.priority,
         r.progress, r.progress_text, r.input, r.result, r.error_code, r.error, r.available_at, r.created_at,
         r.started_at, r.finished_at, r.cancel_requested_at, r.discarded_at, r.actor, r.reason,
         coalesce(e.events, '[]')
  from app.job_runs as r
  left join lateral (
    select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
             'at', x.created_at, 'from', x.from_state, 'to', x.to_state,
             'attempt', x.attempt, 'actor', x.actor, 'reason', x.reason) order by x.id) as events
    from app.job_run_events as x
    where x.tenant_id = r.tenant_id and x.run_id = r.id) as e on true
  where r.tenant_id = job_get.tenant_id and r.id = job_get.run_id;

  if not found then
    perform app_private.job_run_missing();
  end if;
end
$$;

comment on function app.job_get is
  'A run as it stands, with its changes of state, oldest first. Raises JB101, alike for an absent and a foreign id.';

grant execute on function app.job_get to holdfast_service, holdfast_worker;
