-- The columns after import_id are those of app.cost_line_cells, in its order; a test compares them.
create table if not exists app.cost_lines (
  tenant_id                              uuid        not null,
  import_id                              uuid        not null,
  line_no                                integer     not null,
  billing_period_start                   timestamptz not null,
  billing_period_end                     timestamptz not null,
  charge_period_start                    timestamptz not null,
  charge_period_end                      timestamptz not null,
  provider_name                          text,
  publisher_name                         text,
  invoice_issuer_name                    text,
  invoice_id                             text,
  billing_account_id                     text,
  billing_account_name                   text,
  billing_account_type                   text,
  sub_account_id                         text,
  sub_account_name                       text,
  sub_account_type                       text,
  charge_category                        text        not null,
  charge_class                           text,
  charge_frequency                       text,
  charge_description                     text,
  billed_cost                            numeric     not null,
  effective_cost                         numeric     not null,
  list_cost                              numeric,
  contracted_cost                        numeric,
  list_unit_price                        numeric,
  contracted_unit_price                  numeric,
  billing_currency                       text        not null,
  pricing_currency                       text,
  pricing_currency_effective_cost        numeric,
  pricing_currency_list_unit_price       numeric,
  pricing_currency_contracted_unit_price numeric,
  pricing_category                       text,
  pricing_quantity                       numeric,
  pricing_unit                           text,
  consumed_quantity                      numeric,
  consumed_unit                          text,
  service_category                       text,
  service_subcategory                    text,
  service_name                           text,
  resource_id                            text,
  resource_name                          text,
  resource_type                          text,
  region_id                              text,
  region_name                            text,
  availability_zone                      text,
  sku_id                                 text,
  sku_price_id                           text,
  sku_meter                              text,
  sku_price_details                      jsonb,
  tags                                   jsonb,
  commitment_discount_id                 text,
  commitment_discount_name               text,
  commitment_discount_category           text,
  commitment_discount_type               text,
  commitment_discount_status             text,
  commitment_discount_quantity           numeric,
  commitment_discount_unit               text,
  capacity_reservation_id                text,
  capacity_reservation_status            text,
  extra                                  jsonb,
  reader_flags                           text[],
  dq_flags                               text[]      not null default '{}',

  constraint cost_lines_pkey primary key (tenant_id, import_id, line_no),
  constraint cost_lines_import_fkey foreign key (tenant_id, import_id)
    references app.cost_imports (tenant_id, id) on delete restrict,
  constraint cost_lines_charge_category_known
    check (charge_category in ('Usage', 'Purchase', 'Tax', 'Credit', 'Adjustment')),
  -- It reaches headlines and the model.
  constraint cost_lines_billing_currency_code check (billing_currency ~ '^[A-Z]{3}$'),
  constraint cost_lines_billing_period_not_empty check (billing_period_end > billing_period_start),
  constraint cost_lines_charge_period_not_empty check (charge_period_end > charge_period_start),
  constraint cost_lines_billed_cost_finite check (billed_cost > '-Infinity' and billed_cost < 'Infinity'),
  constraint cost_lines_effective_cost_finite
    check (effective_cost > '-Infinity' and effective_cost < 'Infinity'),
  constraint cost_lines_list_cost_finite check (list_cost > '-Infinity' and list_cost < 'Infinity'),
  constraint cost_lines_contracted_cost_finite
    check (contracted_cost > '-Infinity' and contracted_cost < 'Infinity')
);

create index if not exists cost_lines_charge_period_start_idx
  on app.cost_lines (tenant_id, import_id, charge_period_start);

comment on table app.cost_lines is
  'Lines of cost files, as FOCUS 1.2 names them. Seen through app.cost_lines_current; '
  'removed when nothing points to them.';
comment on column app.cost_lines.tenant_id is 'Whose cost it is.';
comment on column app.cost_lines.import_id is 'The file that it came with.';
comment on column app.cost_lines.line_no is 'The line of the file, counted from 1 with the header.';
comment on column app.cost_lines.billing_period_start is 'FOCUS BillingPeriodStart.';
comment on column app.cost_lines.billing_period_end is 'FOCUS BillingPeriodEnd, exclusive.';
comment on column app.cost_lines.charge_period_start is 'FOCUS ChargePeriodStart.';
comment on column app.cost_lines.charge_period_end is 'FOCUS ChargePeriodEnd, exclusive.';
comment on column app.cost_lines.provider_name is 'FOCUS ProviderName.';
comment on column app.cost_lines.publisher_name is 'FOCUS PublisherName.';
comment on column app.cost_lines.invoice_issuer_name is 'FOCUS InvoiceIssuerName.';
comment on column app.cost_lines.invoice_id is 'FOCUS InvoiceId (1.2).';
comment on column app.cost_lines.billing_account_id is 'FOCUS BillingAccountId.';
comment on column app.cost_lines.billing_account_name is 'FOCUS BillingAccountName.';
comment on column app.cost_lines.billing_account_type is 'FOCUS BillingAccountType (1.2).';
comment on column app.cost_lines.sub_account_id is 'FOCUS SubAccountId.';
comment on column app.cost_lines.sub_account_name is 'FOCUS SubAccountName.';
comment on column app.cost_lines.sub_account_type is 'FOCUS SubAccountType (1.2).';
comment on column app.cost_lines.charge_category is 'FOCUS ChargeCategory: Usage, Purchase, Tax, Credit or Adjustment.';
comment on column app.cost_lines.charge_class is 'FOCUS ChargeClass: Correction, or null.';
comment on column app.cost_lines.charge_frequency is 'FOCUS ChargeFrequency: One-Time, Recurring or Usage-Based.';
comment on column app.cost_lines.charge_description is 'FOCUS ChargeDescription.';
comment on column app.cost_lines.billed_cost is 'FOCUS BilledCost, in billing_currency.';
comment on column app.cost_lines.effective_cost is 'FOCUS EffectiveCost, in billing_currency: what the detectors sum.';
comment on column app.cost_lines.list_cost is
  'FOCUS ListCost, in billing_currency; null in exports that leave it out, and flagged.';
comment on column app.cost_lines.contracted_cost is
  'FOCUS ContractedCost, in billing_currency; null in exports that leave it out, and flagged.';
comment on column app.cost_lines.list_unit_price is 'FOCUS ListUnitPrice.';
comment on column app.cost_lines.contracted_unit_price is 'FOCUS ContractedUnitPrice.';
comment on column app.cost_lines.billing_currency is 'FOCUS BillingCurrency; never summed with another.';
comment on column app.cost_lines.pricing_currency is 'FOCUS PricingCurrency (1.2).';
comment on column app.cost_lines.pricing_currency_effective_cost is 'FOCUS PricingCurrencyEffectiveCost (1.2).';
comment on column app.cost_lines.pricing_currency_list_unit_price is 'FOCUS PricingCurrencyListUnitPrice (1.2).';
comment on column app.cost_lines.pricing_currency_contracted_unit_price is
  'FOCUS PricingCurrencyContractedUnitPrice (1.2).';
comment on column app.cost_lines.pricing_category is 'FOCUS PricingCategory.';
comment on column app.cost_lines.pricing_quantity is 'FOCUS PricingQuantity, in pricing_unit.';
comment on column app.cost_lines.pricing_unit is 'FOCUS PricingUnit.';
comment on column app.cost_lines.consumed_quantity is 'FOCUS ConsumedQuantity, in consumed_unit.';
comment on column app.cost_lines.consumed_unit is 'FOCUS ConsumedUnit.';
comment on column app.cost_lines.service_category is 'FOCUS ServiceCategory.';
comment on column app.cost_lines.service_subcategory is 'FOCUS ServiceSubcategory (1.1).';
comment on column app.cost_lines.service_name is 'FOCUS ServiceName.';
comment on column app.cost_lines.resource_id is 'FOCUS ResourceId.';
comment on column app.cost_lines.resource_name is 'FOCUS ResourceName.';
comment on column app.cost_lines.resource_type is 'FOCUS ResourceType.';
comment on column app.cost_lines.region_id is 'FOCUS RegionId.';
comment on column app.cost_lines.region_name is 'FOCUS RegionName.';
comment on column app.cost_lines.availability_zone is 'FOCUS AvailabilityZone; some exports put a price here.';
comment on column app.cost_lines.sku_id is 'FOCUS SkuId.';
comment on column app.cost_lines.sku_price_id is 'FOCUS SkuPriceId.';
comment on column app.cost_lines.sku_meter is 'FOCUS SkuMeter (1.1).';
comment on column app.cost_lines.sku_price_details is 'FOCUS SkuPriceDetails (1.1).';
comment on column app.cost_lines.tags is 'FOCUS Tags, keys trimmed; null when the cell was not a JSON object.';
comment on column app.cost_lines.commitment_discount_id is 'FOCUS CommitmentDiscountId.';
comment on column app.cost_lines.commitment_discount_name is 'FOCUS CommitmentDiscountName.';
comment on column app.cost_lines.commitment_discount_category is 'FOCUS CommitmentDiscountCategory.';
comment on column app.cost_lines.commitment_discount_type is 'FOCUS CommitmentDiscountType.';
comment on column app.cost_lines.commitment_discount_status is 'FOCUS CommitmentDiscountStatus: Used or Unused.';
comment on column app.cost_lines.commitment_discount_quantity is 'FOCUS CommitmentDiscountQuantity (1.1).';
comment on column app.cost_lines.commitment_discount_unit is 'FOCUS CommitmentDiscountUnit (1.1).';
comment on column app.cost_lines.capacity_reservation_id is 'FOCUS CapacityReservationId (1.1).';
comment on column app.cost_lines.capacity_reservation_status is 'FOCUS CapacityReservationStatus (1.1).';
comment on column app.cost_lines.extra is 'Columns of the file that FOCUS does not have.';
comment on column app.cost_lines.reader_flags is 'Data-quality flags that only the reader of the file could see.';
comment on column app.cost_lines.dq_flags is
  'What is doubtful about the line: reader_flags and those of app_private.cost_line_flags.';

call app_private.isolate('app.cost_lines', for_system => true);
call app_private.fence('app.cost_lines');
grant select, delete on app.cost_lines to holdfast_system;
