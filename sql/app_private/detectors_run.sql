create or replace function app_private.detectors_run(tenant_id uuid, run_id uuid, attempt integer)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_detected app_private.detected[];
begin
  -- One look at a time, each at what is published when its turn has come: an older look never ends after a newer one.
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(tenant_id::text, 1));
  perform app_private.job_running(tenant_id, run_id, attempt);

  select array_agg(row(d.*)::app_private.detected) into v_detected
  from (
    select * from app_private.detect_untagged_spend(detectors_run.tenant_id)
    union all
    select * from app_private.detect_cost_anomaly(detectors_run.tenant_id)
  ) as d;
  return app_private.findings_save(tenant_id, run_id, coalesce(v_detected, '{}'));
end
$$;

comment on function app_private.detectors_run is
  'Runs every detector over the published costs of a tenant and keeps what they found; answers how many findings. Those of '
  'a tenant go one after the other. Raises JB101, JB201 when the attempt no longer runs.';
