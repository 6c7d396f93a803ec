create or replace function app_private.narration_check(tenant_id uuid, run_id uuid, items jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_bad text;
begin
  select case
           when f.id is null then 'unknown_finding'
           when coalesce(i.rank, 0) < 1 then 'rank'
           when i.remediation_code is distinct from f.remediation_code
             and i.remediation_code is distinct from 'no_action' then 'unknown_remediation'
           when coalesce(length(i.headline), 0) not between 1 and 200
             or coalesce(length(i.why), 0) not between 1 and 1000 then 'length'
           else 'number_or_unknown_slot' end
  into v_bad
  from jsonb_to_recordset(items) as i (
    finding_id uuid, rank integer, headline text, why text, caveats text[], remediation_code text)
  left join app.findings as f
    on f.tenant_id = narration_check.tenant_id and f.id = i.finding_id
  cross join lateral (select concat_ws(' ', i.headline, i.why, array_to_string(i.caveats, ' ')) as said) as t
  where f.id is null
    or coalesce(i.rank, 0) < 1
    or f.run_id = narration_check.run_id
      -- a later run may have found it again: analysis_apply then drops these words
      and (i.remediation_code is null
        or i.remediation_code not in (f.remediation_code, 'no_action')
        or coalesce(length(i.headline), 0) not between 1 and 200
        or coalesce(length(i.why), 0) not between 1 and 1000
        -- What is left once the known slots are taken out must hold no digit and no brace.
        or app_private.render(t.said,
            (select jsonb_object_agg(s.key, '') from jsonb_object_keys(f.slots) as s (key)))
          ~ '[[:digit:]{}]')
  limit 1;

  if found then
    perform app_private.narration_refuse(v_bad);
  end if;
end
$$;

comment on function app_private.narration_check is
  'Raises NA102 unless every item words a finding of this run, with a known remediation and no number of its own: the '
  'shell has checked the answer of the model; this is the constraint behind it.';
