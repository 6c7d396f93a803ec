create or replace function app.findings_list(
  tenant_id uuid, ticket text, state text default 'open', max_rows integer default 50,
  after_rank integer default 0)
returns table (
  id uuid, rank integer, detector text, severity text, finding_state text, currency text,
  monthly_saving numeric, saving_basis text, confidence text, headline text, why text, caveats text[],
  remediation_code text, narrated_by text, scope jsonb, evidence jsonb,
  first_seen_at timestamptz, last_seen_at timestamptz, occurrences integer)
language plpgsql
security definer  -- the service role may not read findings
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  if coalesce(state, '') not in ('open', 'acknowledged', 'snoozed', 'dismissed', 'resolved')
    or coalesce(max_rows, 0) not between 1 and 200
    or after_rank is null
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('state', state, 'max_rows', max_rows),
      hint    =
        'state is open, acknowledged, snoozed, dismissed or resolved; max_rows is 1 to 200, after_rank is a number.';
  end if;

  return query
  select f.id, f.place, f.detector, f.severity, f.state, f.currency, f.monthly_saving, f.saving_basis,
         f.confidence, app_private.render(f.headline, f.slots), app_private.render(f.why, f.slots),
         array(select app_private.render(c.caveat, f.slots) from unnest(f.caveats) as c (caveat)),
         f.remediation_code, f.narrated_by, f.scope, f.evidence, f.first_seen_at, f.last_seen_at,
         f.occurrences
  from (
    -- Counted anew within its state: findings of earlier runs kept the rank they had then, so ranks alone may tie.
    select x.*, row_number() over (order by x.rank, x.id)::integer as place
    from app.findings as x
    where x.tenant_id = findings_list.tenant_id and x.state = findings_list.state) as f
  where f.place > after_rank
  order by f.place
  limit max_rows;
end
$$;

comment on function app.findings_list is
  'The findings of a tenant in a state, best first; after_rank goes on after a page. Raises OP102.';

grant execute on function app.findings_list to holdfast_service, holdfast_worker;
