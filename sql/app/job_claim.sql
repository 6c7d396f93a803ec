create or replace function app.job_claim(tenant_id uuid, ticket text, run_id uuid, worker text)
returns table (
  attempt integer, kind text, timeout_ms integer, lease_until timestamptz, input jsonb, max_attempts integer)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  -- The test is part of the update, so two workers with the same token cannot both win.
  return query
  update app.job_runs as r
  set state = 'RUNNING',
      attempt = r.attempt + 1,
      worker = job_claim.worker,
      started_at = pg_catalog.clock_timestamp(),
      lease_until = pg_catalog.clock_timestamp() + interval '20 seconds'
  from app.job_kinds as k
  where r.tenant_id = job_claim.tenant_id
    and r.id = run_id
    and r.state in ('PENDING', 'FAILED')
    and r.available_at <= pg_catalog.clock_timestamp()
    and k.kind = r.kind
  returning r.attempt, r.kind, k.timeout_seconds * 1000, r.lease_until, r.input, k.max_retries + 1;

  if not found and not exists (
    select from app.job_runs as r where r.tenant_id = job_claim.tenant_id and r.id = run_id)
  then
    perform app_private.job_fenced(tenant_id, run_id, null);
  end if;
end
$$;

comment on function app.job_claim is
  'Starts the next attempt of a run, with a lease of 20 s that job_heartbeat extends. No row: the token is stale (the '
  'run is taken, ended, or not due), and there is nothing to do. Raises JB101 for a run that is not there.';

grant execute on function app.job_claim to holdfast_worker;
