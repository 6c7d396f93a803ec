create or replace function app_private.analysis_apply(tenant_id uuid, run_id uuid, result jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_items constant jsonb := coalesce(result -> 'items', '[]');
begin
  perform app_private.narration_check(tenant_id, run_id, result);

  -- In one order, as findings_save does: two runs of a tenant may end at once.
  perform from app.findings as f where f.tenant_id = analysis_apply.tenant_id order by f.id for no key update;
  update app.findings as f
  set headline = i.headline,
      why = i.why,
      caveats = coalesce(i.caveats, '{}'),
      remediation_code = i.remediation_code,
      narrated_by = 'model'
  from jsonb_to_recordset(v_items) as i (
    finding_id uuid, headline text, why text, caveats text[], remediation_code text)
  where f.tenant_id = analysis_apply.tenant_id and f.id = i.finding_id and f.run_id = analysis_apply.run_id;

  -- What the model ordered comes first; what it left out keeps its order behind.
  update app.findings as f
  set rank = o.rank
  from (
    select x.id, row_number() over (order by i.rank nulls last, x.rank, x.id) as rank
    from app.findings as x
    left join jsonb_to_recordset(v_items) as i (finding_id uuid, rank integer) on i.finding_id = x.id
    where x.tenant_id = analysis_apply.tenant_id and x.run_id = analysis_apply.run_id) as o
  where f.tenant_id = analysis_apply.tenant_id and f.id = o.id and f.rank <> o.rank;

  insert into app.analyses (tenant_id, id, narrated_by, fallback_reason, provider, model, prompt_hash,
    summary, finding_count)
  select analysis_apply.tenant_id, analysis_apply.run_id, result ->> 'narrated_by',
         result ->> 'fallback_reason', result ->> 'provider', result ->> 'model', result ->> 'prompt_hash',
         left(result ->> 'summary', 2000), count(*)
  from app.findings as f
  where f.tenant_id = analysis_apply.tenant_id and f.state in ('open', 'acknowledged');

  perform app_private.event_add(tenant_id, 'analysis.completed', run_id, jsonb_strip_nulls(jsonb_build_object(
    'narrated_by', result ->> 'narrated_by', 'fallback_reason', result ->> 'fallback_reason')));
end
$$;

comment on function app_private.analysis_apply is
  'Keeps how an analysis was worded. A result without items leaves the words of SQL. Raises NA102.';
