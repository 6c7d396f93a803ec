create or replace function app_private.findings_save(
  tenant_id uuid, run_id uuid, detected app_private.detected[])
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_count integer;
begin
  -- What is there is locked in one order first: two runs of a tenant may order the same findings differently.
  perform from app.findings as f where f.tenant_id = findings_save.tenant_id order by f.id for no key update;

  insert into app.findings as f (tenant_id, run_id, fingerprint, detector, detector_version, scope, severity,
    currency, monthly_saving, saving_basis, confidence, rank, evidence, slots, headline, why,
    remediation_code)
  select findings_save.tenant_id, findings_save.run_id, d.fingerprint, d.detector, d.detector_version,
         d.scope, d.severity, d.currency, nullif(greatest(d.monthly_saving, 0), 0),
         case when d.monthly_saving > 0 then d.saving_basis end, d.confidence,
         row_number() over (order by d.monthly_saving desc nulls last, d.amount desc, d.fingerprint),
         jsonb_strip_nulls(d.evidence), d.slots, d.headline, d.why, d.remediation_code
  from unnest(detected) as d
  order by d.fingerprint
  on conflict on constraint findings_fingerprint_once do update
  set run_id = excluded.run_id,
      detector_version = excluded.detector_version,
      scope = excluded.scope,
      severity = excluded.severity,
      monthly_saving = excluded.monthly_saving,
      saving_basis = excluded.saving_basis,
      confidence = excluded.confidence,
      rank = excluded.rank,
      evidence = excluded.evidence,
      slots = excluded.slots,
      headline = excluded.headline,
      why = excluded.why,
      caveats = '{}',
      remediation_code = excluded.remediation_code,
      narrated_by = 'template',
      -- An attempt that is tried again sees the same finding, not another occurrence.
      occurrences = f.occurrences + (f.run_id <> excluded.run_id)::integer,
      last_seen_at = now(),
      state = case when f.state = 'resolved' then 'open' else f.state end,
      resolved_at = null;
  get diagnostics v_count = row_count;

  update app.findings as f
  set state = 'resolved', resolved_at = now()
  where f.tenant_id = findings_save.tenant_id
    and f.state in ('open', 'acknowledged')
    -- By what was found, not by the run: one that is tried again may have seen more the first time.
    and f.fingerprint <> all (array(select d.fingerprint from unnest(detected) as d));

  return v_count;
end
$$;

comment on function app_private.findings_save is
  'Keeps what the detectors of one run found: the same fingerprint is the same finding, and an open one that was not '
  'seen is resolved. What people dismissed stays dismissed. Ranks by saving, then by the money it is about.';
