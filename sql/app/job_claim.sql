set local role holdfast_system;

create or replace function app.job_claim(worker text, tenant_ids uuid[], run_ids uuid[])
returns table (
  tenant_id uuid, run_id uuid, attempt integer, kind text, slot bigint, timeout_ms integer,
  lease_until timestamptz, input jsonb, max_attempts integer, from_state text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
set row_security = on
as $$
declare
  v_judged app_private.job_verdict[];
  v_served constant text[] := (select w.kinds from app.job_workers as w where w.worker = job_claim.worker);
  v_now    timestamptz;
begin
  perform app_private.job_gates_lock(tenant_ids, run_ids);
  v_now := pg_catalog.clock_timestamp();

  v_judged := array(select j from app_private.job_judged(tenant_ids, run_ids, v_served, v_now) as j);
  perform app_private.runs_wait(v_judged);
  if pg_catalog.cardinality(v_judged) < pg_catalog.cardinality(run_ids) then
    perform app_private.runs_retell(tenant_ids, run_ids, v_judged, v_served, v_now);
  end if;
  perform app_private.starts_take(v_judged, v_now);

  return query
  update app.job_runs as r
  set state = 'RUNNING',
      attempt = r.attempt + 1,
      worker = job_claim.worker,
      token_at = coalesce(r.token_at, v_now),  -- a stale token may start one that is parked
      started_at = v_now,
      lease_until = v_now + interval '20 seconds',
      progress = null,
      progress_text = null,
      cancel_requested_at = null
  from unnest(v_judged) as j, app.job_kinds as k
  where j.verdict = 'start' and r.tenant_id = j.tenant_id and r.id = j.run_id and k.kind = r.kind
  returning r.tenant_id, r.id, r.attempt, r.kind, r.slot, k.timeout_seconds * 1000, r.lease_until, r.input,
            k.max_retries + 1, j.state;
end
$$;

comment on function app.job_claim is
  'Starts the next attempt of each of these runs, among all tenants, with a lease of 20 s that worker_beat extends; from_state is '
  'what the run was before. A run that is not answered has nothing to do: it is taken, has ended, or is not due; or it may not '
  'start yet, and has its next token.';

grant execute on function app.job_claim to holdfast_worker;

set local role holdfast_owner;
