set local role holdfast_system;

create or replace function app.job_complete_many(
  tenant_ids uuid[], run_ids uuid[], attempts integer[], results jsonb[])
returns table (run_id uuid)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
begin
  -- What somebody else holds is passed over, so that nobody waits here; its own call of job_complete waits for it.
  return query
  with ended as materialized (
    select r.tenant_id, r.id, e.result
    from unnest(tenant_ids, run_ids, attempts, results) as e (tenant_id, run_id, attempt, result)
    join app.job_runs as r
      on r.tenant_id = e.tenant_id and r.id = e.run_id and r.attempt = e.attempt and r.state = 'RUNNING'
    join app.tenants as t on t.tenant_id = r.tenant_id and t.status = 'ACTIVE'
    where not app_private.job_applies(r.kind)
    for no key update of r skip locked
  )
  update app.job_runs as r
  set state = 'COMPLETED',
      result = e.result,
      error_code = null,
      error = null,
      lease_until = null,
      progress = 1,
      finished_at = pg_catalog.clock_timestamp()
  from ended as e
  where r.tenant_id = e.tenant_id and r.id = e.id and r.state = 'RUNNING'
  returning r.id;
end
$$;

comment on function app.job_complete_many is
  'Ends attempts whose work is done and whose kind applies nothing, among all tenants, in one transaction. Answers those that '
  'it completed; for the others job_complete says what is the matter: another kind, another attempt, an end, a lock.';

grant execute on function app.job_complete_many to holdfast_worker;

set local role holdfast_owner;
