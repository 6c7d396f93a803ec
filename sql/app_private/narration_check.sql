create or replace function app_private.narration_check(tenant_id uuid, run_id uuid, items jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_bad text;
begin
  select case
           when f.id is null then 'unknown_finding'
           when i.remediation_code is distinct from f.remediation_code and i.remediation_code is distinct from 'no_action'
             then 'unknown_remediation'
           when coalesce(length(i.headline), 0) not between 1 and 200
             or coalesce(length(i.why), 0) not between 1 and 1000 then 'length'
           else 'number_or_unknown_slot' end
  into v_bad
  from jsonb_to_recordset(items) as i (
    finding_id uuid, headline text, why text, caveats text[], remediation_code text)
  left join app.findings as f
    on f.tenant_id = narration_check.tenant_id and f.id = i.finding_id and f.run_id = narration_check.run_id
  cross join lateral (select concat_ws(' ', i.headline, i.why, array_to_string(i.caveats, ' ')) as said) as t
  where f.id is null
    or i.remediation_code is null
    or i.remediation_code not in (f.remediation_code, 'no_action')
    or coalesce(length(i.headline), 0) not between 1 and 200
    or coalesce(length(i.why), 0) not between 1 and 1000
    -- What is left once the known slots are taken out must hold no digit and no brace.
    or app_private.render(t.said, (select jsonb_object_agg(s.key, '') from jsonb_object_keys(f.slots) as s (key)))
      ~ '[[:digit:]{}]'
  limit 1;

  if found then
    raise exception using
      errcode = 'NA102',
      message = 'analysis_invalid',
      detail  = pg_catalog.jsonb_build_object('reason', v_bad),
      hint    = 'Items name findings of this run, at most 200 and 1,000 characters, and numbers only as {{slots}}.';
  end if;
end
$$;

comment on function app_private.narration_check is
  'Raises NA102 unless every item words a finding of this run, with a known remediation and no number of its own: the '
  'shell has checked the answer of the model; this is the constraint behind it.';
