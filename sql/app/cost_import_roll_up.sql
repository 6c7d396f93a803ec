create or replace function app.cost_import_roll_up(tenant_id uuid, ticket text, import_id uuid)
returns integer
language plpgsql
security definer  -- the shell may not write the roll-up
set search_path = ''
set timezone = 'UTC'
as $$
declare
  v_count integer;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.cost_import_open(tenant_id, import_id, 'LOADING');
  perform app_private.cost_import_flag(tenant_id, import_id);

  insert into app.cost_daily
  select l.tenant_id, l.import_id, row_number() over ()::integer, l.billing_period_start,
         l.charge_period_start::date, l.provider_name, l.sub_account_id, max(l.sub_account_name),
         l.service_category, l.service_name, l.region_id, l.charge_category,
         l.charge_class is not distinct from 'Correction', l.billing_currency,
         sum(l.billed_cost), sum(l.effective_cost), coalesce(sum(l.list_cost), 0),
         coalesce(sum(l.contracted_cost), 0),
         count(*), count(*) filter (where l.dq_flags <> '{}'),
         count(*) filter (where l.dq_flags && app_private.doubtful_flags())
  from app.cost_lines as l
  where l.tenant_id = cost_import_roll_up.tenant_id and l.import_id = cost_import_roll_up.import_id
  group by l.tenant_id, l.import_id, l.billing_period_start, l.charge_period_start::date, l.provider_name,
           l.sub_account_id, l.service_category, l.service_name, l.region_id, l.charge_category,
           l.charge_class is not distinct from 'Correction', l.billing_currency;
  get diagnostics v_count = row_count;

  if v_count = 0 then
    raise exception using
      errcode = 'IM103',
      message = 'import_empty',
      hint    = 'The file has a header and no line. Nothing was replaced.';
  end if;

  update app.cost_imports as i
  set status = 'LOADED',
      line_count = s.line_count,
      flagged_count = s.flagged_count,
      flags = s.flags
  from app_private.cost_import_counts(cost_import_roll_up.tenant_id, cost_import_roll_up.import_id) as s
  where i.tenant_id = cost_import_roll_up.tenant_id and i.id = cost_import_roll_up.import_id;

  return v_count;
end
$$;

comment on function app.cost_import_roll_up is
  'Ends the loading of an import: flags what only the whole file shows, sums the lines by day, counts. Answers the '
  'rows of the roll-up. The long part of an import, so that publishing is short. Raises IM101, IM201, IM103.';

grant execute on function app.cost_import_roll_up to holdfast_service, holdfast_worker;
