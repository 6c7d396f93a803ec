create or replace function app_private.cost_line_flags(line app.cost_line_cells) returns text[]
language sql
immutable
parallel safe
return coalesce((line).reader_flags, '{}') || array_remove(array[
  case when (line).provider_name is null then 'missing_provider' end,
  case when coalesce((line).contracted_cost, 0) = 0 and (line).effective_cost <> 0
    then 'missing_contracted_cost' end,
  case when coalesce((line).list_cost, 0) = 0 and (line).effective_cost <> 0 then 'missing_list_cost' end,
  case when (line).list_cost <> 0 and (line).list_cost < (line).contracted_cost then 'list_lt_contracted' end,
  case when (line).contracted_cost > 0 and (line).contracted_cost < (line).effective_cost
    then 'contracted_lt_effective' end,
  case when (line).charge_category = 'Usage' and (line).list_unit_price is null
    then 'missing_list_unit_price' end,
  case when (line).charge_category in ('Usage', 'Purchase') and (line).pricing_quantity is null
    then 'missing_pricing_quantity' end,
  case when (line).charge_category = 'Usage' and (line).consumed_quantity is null
    and (line).commitment_discount_status is distinct from 'Unused' then 'missing_consumed_quantity' end,
  case when (line).charge_category = 'Purchase' and (line).commitment_discount_id is not null
    and (line).effective_cost > 0 then 'invalid_effective_cost' end,
  case when (line).effective_cost = 0 and (line).billed_cost > 0 and (line).charge_category = 'Usage'
    then 'effective_zero_billed_positive' end,
  case when abs((line).list_cost - (line).list_unit_price * (line).pricing_quantity) > 0.01
    then 'list_ne_price_x_quantity' end,
  -- A correction lies outside its billing period on purpose.
  case when (line).charge_class is null and ((line).charge_period_start < (line).billing_period_start
    or (line).charge_period_start >= (line).billing_period_end) then 'bad_period' end
], null);

comment on function app_private.cost_line_flags is
  'The data-quality flags of one line: FOCUS says what each column must hold, and exports are wrong in known ways. '
  'Flags mark a line; they never change or drop it.';
