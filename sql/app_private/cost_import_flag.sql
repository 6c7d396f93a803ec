create or replace function app_private.cost_import_flag(tenant_id uuid, import_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  with marked as (
    select l.line_no,
           array_remove(array[
             case when count(*) over same_charge > 1 then 'duplicate_line' end,
             case when min(l.billing_currency) over same_account <> max(l.billing_currency) over same_account
               then 'mixed_currency' end], null) as flags
    from app.cost_lines as l
    where l.tenant_id = cost_import_flag.tenant_id and l.import_id = cost_import_flag.import_id
    window
      same_account as (partition by l.billing_account_id),
      same_charge as (partition by l.charge_period_start, l.charge_period_end, l.sub_account_id, l.resource_id,
        l.sku_price_id, l.sku_id, l.charge_category, l.charge_class, l.charge_description, l.region_id,
        l.pricing_quantity, l.consumed_quantity, l.billed_cost, l.effective_cost, l.tags::text)
  )
  update app.cost_lines as l
  set dq_flags = l.dq_flags || m.flags
  from marked as m
  where l.tenant_id = cost_import_flag.tenant_id
    and l.import_id = cost_import_flag.import_id
    and l.line_no = m.line_no
    and m.flags <> '{}';
end
$$;

comment on function app_private.cost_import_flag is
  'Adds the flags that only the whole file shows: duplicate_line, and mixed_currency within one billing account.';
