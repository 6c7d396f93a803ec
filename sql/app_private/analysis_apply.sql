create or replace function app_private.analysis_apply(tenant_id uuid, run_id uuid, result jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_without text[] := (
    select array(select w.kind from jsonb_array_elements_text(r.input -> 'without') as w (kind))
    from app.job_runs as r
    -- Only the scheduler's word counts: in a run without a slot the input is that of a caller.
    where r.tenant_id = analysis_apply.tenant_id and r.id = analysis_apply.run_id and r.slot is not null);
begin
  -- In one order, as findings_save does: two runs of a tenant may end at once. What is checked then stays as it is.
  perform from app.findings as f where f.tenant_id = analysis_apply.tenant_id order by f.id for no key update;
  perform app_private.narration_check(tenant_id, result);

  -- What the model ordered comes first; what it left out keeps its order behind. Words count for what stands and is still
  -- what the model was shown: a detection may have been faster.
  with said as (
    select i.*
    from jsonb_to_recordset(coalesce(result -> 'items', '[]')) as i (
      finding_id uuid, mark text, rank integer, headline text, why text, caveats text[],
      remediation_code text)
  ), ordered as (
    select x.id, s.finding_id is not null as worded, s.headline, s.why, s.caveats, s.remediation_code,
           row_number() over (order by s.rank nulls last, x.rank, x.id) as rank
    from app.findings as x
    left join said as s
      on s.finding_id = x.id and s.mark = app_private.finding_mark(x.slots, x.remediation_code)
    where x.tenant_id = analysis_apply.tenant_id and x.state in ('open', 'acknowledged')
  )
  update app.findings as f
  set rank = o.rank,
      headline = case when o.worded then o.headline else f.headline end,
      why = case when o.worded then o.why else f.why end,
      caveats = case when o.worded then coalesce(o.caveats, '{}') else f.caveats end,
      remediation_code = case when o.worded then o.remediation_code else f.remediation_code end,
      narrated_by = case when o.worded then 'model' else f.narrated_by end
  from ordered as o
  where f.tenant_id = analysis_apply.tenant_id and f.id = o.id and (o.worded or f.rank <> o.rank);

  insert into app.analyses (tenant_id, id, narrated_by, fallback_reason, provider, model, prompt_hash,
    summary, finding_count, without)
  select analysis_apply.tenant_id, analysis_apply.run_id, result ->> 'narrated_by',
         result ->> 'fallback_reason', result ->> 'provider', result ->> 'model', result ->> 'prompt_hash',
         left(result ->> 'summary', 2000), count(*), coalesce(v_without, '{}')
  from app.findings as f
  where f.tenant_id = analysis_apply.tenant_id and f.state in ('open', 'acknowledged');

  perform app_private.event_add(tenant_id, 'analysis.completed', run_id, jsonb_strip_nulls(jsonb_build_object(
    'narrated_by', result ->> 'narrated_by', 'fallback_reason', result ->> 'fallback_reason',
    'without', nullif(v_without, '{}'))));
end
$$;

comment on function app_private.analysis_apply is
  'Keeps how an analysis was worded, and which kinds of its slot had failed before it. Words for a finding that has ended, or '
  'that a later detection saw otherwise, are dropped. A result without items leaves the words of SQL. Raises NA102.';
