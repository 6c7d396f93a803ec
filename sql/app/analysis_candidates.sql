create or replace function app.analysis_candidates(tenant_id uuid, ticket text, run_id uuid, attempt integer)
returns table (
  candidate_id text, finding_id uuid, mark text, detector text, severity text, currency text, facts text,
  slots text[], remediation_codes text[])
language plpgsql
security definer  -- the shell may not write findings
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.job_running(tenant_id, run_id, attempt);

  -- A run of the scheduler comes after the detection of its slot. One that somebody asked for looks for itself.
  if exists (
    select from app.job_runs as r
    where r.tenant_id = analysis_candidates.tenant_id
      and r.id = analysis_candidates.run_id
      and r.slot is null)
  then
    perform app_private.detectors_run(tenant_id, run_id, attempt);
  end if;

  return query
  select 'c' || row_number() over (order by f.rank, f.id), f.id,
         app_private.finding_mark(f.slots, f.remediation_code), f.detector, f.severity, f.currency,
         (select string_agg(s.key || '=' || s.value, '; ' order by s.key) from jsonb_each_text(f.slots) as s),
         array(select s.key from jsonb_object_keys(f.slots) as s (key) order by s.key),
         case when f.remediation_code <> 'no_action' then array[f.remediation_code] end || 'no_action'::text
  from app.findings as f
  where f.tenant_id = analysis_candidates.tenant_id and f.state in ('open', 'acknowledged')
  order by f.rank, f.id
  limit 40;
end
$$;

comment on function app.analysis_candidates is
  'The forty findings that stand and matter most, as candidates for a model to order and word; mark goes back with the words. '
  'A run without a slot runs the detectors first, as app.findings_detect does. Raises JB101, JB201 when the attempt no '
  'longer runs.';

grant execute on function app.analysis_candidates to holdfast_service;
