create or replace function app_private.cost_import_flag(tenant_id uuid, import_id uuid) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_duplicates integer[];
  v_accounts   text[];
begin
  -- Found first and marked then: as one statement the planner, which knows nothing of a new import, joins line by line.
  select array_agg(c.line_no) into v_duplicates
  from (
    select l.line_no, count(*) over (
      partition by l.provider_name, l.billing_account_id, l.service_name, l.charge_period_start,
        l.charge_period_end, l.sub_account_id, l.resource_id, l.sku_price_id, l.sku_id, l.charge_category,
        l.charge_class, l.charge_description, l.region_id, l.pricing_quantity, l.consumed_quantity,
        l.billed_cost, l.effective_cost, l.tags::text) as copies
    from app.cost_lines as l
    where l.tenant_id = cost_import_flag.tenant_id and l.import_id = cost_import_flag.import_id) as c
  where c.copies > 1;

  update app.cost_lines as l
  set dq_flags = array_append(l.dq_flags, 'duplicate_line')
  where l.tenant_id = cost_import_flag.tenant_id
    and l.import_id = cost_import_flag.import_id
    and l.line_no = any (v_duplicates);

  select array_agg(a.account) into v_accounts
  from (
    select coalesce(l.billing_account_id, '') as account
    from app.cost_lines as l
    where l.tenant_id = cost_import_flag.tenant_id and l.import_id = cost_import_flag.import_id
    group by coalesce(l.billing_account_id, '')
    having min(l.billing_currency) <> max(l.billing_currency)) as a;

  update app.cost_lines as l
  set dq_flags = array_append(l.dq_flags, 'mixed_currency')
  where l.tenant_id = cost_import_flag.tenant_id
    and l.import_id = cost_import_flag.import_id
    and coalesce(l.billing_account_id, '') = any (v_accounts);
end
$$;

comment on function app_private.cost_import_flag is
  'Adds the flags that only the whole file shows: duplicate_line, and mixed_currency within one billing account.';
