create or replace function app.job_heartbeat(tenant_id uuid, ticket text, run_id uuid, attempt integer)
returns timestamptz
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_lease     timestamptz;
  v_cancelled boolean;
begin
  perform app.enter(tenant_id, ticket);

  -- A worker that beats for ever holds no run for ever: the lease ends with the time that its kind has.
  update app.job_runs as r
  set lease_until = least(pg_catalog.clock_timestamp() + interval '20 seconds',
                          r.started_at + pg_catalog.make_interval(secs => k.timeout_seconds + 20))
  from app.job_kinds as k
  where r.tenant_id = job_heartbeat.tenant_id
    and r.id = run_id
    and r.attempt = job_heartbeat.attempt
    and r.state = 'RUNNING'
    and k.kind = r.kind
  returning r.lease_until, r.cancel_requested_at is not null into v_lease, v_cancelled;
  if not found then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;
  if v_cancelled then
    perform app_private.job_cancelled(run_id);
  end if;

  return v_lease;
end
$$;

comment on function app.job_heartbeat is
  'Extends the lease of an attempt to 20 s from now, within the time of its kind. Raises JB101, JB201, and JB203 '
  'when its end was asked for.';

grant execute on function app.job_heartbeat to holdfast_worker, holdfast_service;
