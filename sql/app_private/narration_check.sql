create or replace function app_private.narration_check(tenant_id uuid, result jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_items constant jsonb := coalesce(result -> 'items', '[]');
  v_bad   text := case
    when coalesce(result ->> 'narrated_by', '') not in ('model', 'template') then 'narrated_by'
    when result ->> 'narrated_by' = 'template' and v_items <> '[]' then 'items_of_the_template'
    when app_private.says_numbers(result ->> 'summary', '{}') then 'number_in_summary' end;
begin
  if v_bad is null then
    select x.fault into v_bad
    from jsonb_to_recordset(v_items) as i (
      finding_id uuid, mark text, rank integer, headline text, why text, caveats text[],
      remediation_code text)
    left join app.findings as f on f.tenant_id = narration_check.tenant_id and f.id = i.finding_id
    cross join lateral (select case
      when f.id is null then 'unknown_finding'
      when coalesce(i.rank, 0) < 1 then 'rank'
      when i.mark is null then 'mark'
      -- It has ended, or is not what the model was shown: analysis_apply drops these words, whatever they are.
      when f.state not in ('open', 'acknowledged')
        or i.mark <> app_private.finding_mark(f.slots, f.remediation_code) then null
      when coalesce(i.remediation_code, '') not in (f.remediation_code, 'no_action') then 'remediation'
      when coalesce(length(i.headline), 0) not between 1 and 200
        or coalesce(length(i.why), 0) not between 1 and 1000
        or cardinality(i.caveats) > 10
        or exists (select from unnest(i.caveats) as c (caveat)
                   where coalesce(length(c.caveat), 0) not between 1 and 500) then 'length'
      when app_private.says_numbers(
          concat_ws(' ', i.headline, i.why, array_to_string(i.caveats, ' ')), f.slots)
        then 'number_or_unknown_slot' end as fault) as x
    where x.fault is not null
    limit 1;
  end if;
  if v_bad is null and exists (
    select from jsonb_to_recordset(v_items) as i (finding_id uuid) group by i.finding_id having count(*) > 1)
  then
    v_bad := 'finding_twice';
  end if;

  if v_bad is not null then
    perform app_private.narration_refuse(v_bad);
  end if;
end
$$;

comment on function app_private.narration_check is
  'Raises NA102 unless the result words each finding of the tenant once at most, with a known remediation and no number of '
  'its own. The shell has checked the answer of the model; this is the constraint behind it.';
