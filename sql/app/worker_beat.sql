set local role holdfast_system;

create or replace function app.worker_beat(
  worker text, pool text, host text, pid integer, version text, kinds text[], concurrency integer,
  tenant_ids uuid[], run_ids uuid[], attempts integer[])
returns table (tenant_id uuid, run_id uuid, attempt integer, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
set row_security = on
as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
begin
  insert into app.job_workers as w (worker, pool, host, pid, version, kinds, concurrency, running, seen_at)
  values (worker_beat.worker, worker_beat.pool, worker_beat.host, worker_beat.pid, worker_beat.version,
          worker_beat.kinds, worker_beat.concurrency, pg_catalog.cardinality(run_ids), v_now)
  on conflict on constraint job_workers_pkey do update
  set running = excluded.running, seen_at = excluded.seen_at;

  -- A run that is being ended at this moment is passed over: nobody waits for it.
  with mine as materialized (
    select r.tenant_id, r.id
    from unnest(tenant_ids, run_ids, attempts) as m (tenant_id, run_id, attempt)
    join app.job_runs as r
      on r.tenant_id = m.tenant_id and r.id = m.run_id and r.attempt = m.attempt and r.state = 'RUNNING'
    for no key update of r skip locked
  )
  update app.job_runs as r
  set lease_until = least(v_now + interval '20 seconds',
                          r.started_at + pg_catalog.make_interval(secs => k.timeout_seconds + 20))
  from mine as m, app.job_kinds as k
  where r.tenant_id = m.tenant_id and r.id = m.id and k.kind = r.kind;

  return query
  select m.tenant_id, m.run_id, m.attempt,
         case when r.attempt = m.attempt and r.state = 'RUNNING' then 'cancelled' else 'fenced' end
  from unnest(tenant_ids, run_ids, attempts) as m (tenant_id, run_id, attempt)
  left join app.job_runs as r on r.tenant_id = m.tenant_id and r.id = m.run_id
  where (r.attempt = m.attempt and r.state = 'RUNNING' and r.cancel_requested_at is null) is not true;
end
$$;

comment on function app.worker_beat is
  'A worker says that it lives, and what it runs, among all tenants: it is registered, and the leases of its attempts end 20 s '
  'from now, within the time of their kind. Answers the attempts that it must end: fenced, for the run went on without it, '
  'or cancelled.';

grant execute on function app.worker_beat to holdfast_worker;

set local role holdfast_owner;
