create or replace function app.analysis_detect(tenant_id uuid, ticket text, run_id uuid, attempt integer)
returns table (
  candidate_id text, finding_id uuid, detector text, severity text, currency text, facts text,
  slots text[], remediation_codes text[])
language plpgsql
security definer  -- the shell may not write findings
set search_path = ''
as $$
declare
  v_detected app_private.detected[];
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.job_running(tenant_id, run_id, attempt);

  select array_agg(row(d.*)::app_private.detected) into v_detected
  from (
    select * from app_private.detect_untagged_spend(analysis_detect.tenant_id)
    union all
    select * from app_private.detect_cost_anomaly(analysis_detect.tenant_id)
  ) as d;
  perform app_private.findings_save(tenant_id, run_id, coalesce(v_detected, '{}'));

  return query
  select 'c' || row_number() over (order by f.rank), f.id, f.detector, f.severity, f.currency,
         (select string_agg(s.key || '=' || s.value, '; ' order by s.key) from jsonb_each_text(f.slots) as s),
         array(select s.key from jsonb_object_keys(f.slots) as s (key) order by s.key),
         array[f.remediation_code, 'no_action']
  from app.findings as f
  where f.tenant_id = analysis_detect.tenant_id
    and f.run_id = analysis_detect.run_id
    and f.state in ('open', 'acknowledged')
  order by f.rank
  limit 40;
end
$$;

comment on function app.analysis_detect is
  'Runs every detector over the published costs of the tenant, keeps the findings, and answers the forty that matter '
  'most, as candidates for a model to order and word. Raises JB101, JB201 when the attempt no longer runs.';

grant execute on function app.analysis_detect to holdfast_worker;
