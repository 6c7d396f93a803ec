-- One line of a cost file as the shell sends it: a row literal of this type. The order of the fields is the contract.
do $$
begin
  if pg_catalog.to_regtype('app.cost_line_cells') is null then
    create type app.cost_line_cells as (
    line_no                                integer,
    billing_period_start                   timestamptz,
    billing_period_end                     timestamptz,
    charge_period_start                    timestamptz,
    charge_period_end                      timestamptz,
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
    charge_category                        text,
    charge_class                           text,
    charge_frequency                       text,
    charge_description                     text,
    billed_cost                            numeric,
    effective_cost                         numeric,
    list_cost                              numeric,
    contracted_cost                        numeric,
    list_unit_price                        numeric,
    contracted_unit_price                  numeric,
    billing_currency                       text,
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
    reader_flags                           text[]
    );
  end if;
end
$$;

comment on type app.cost_line_cells is
  'A line of a FOCUS file for app.cost_import_add, as a row literal. New fields go last, here and in app.cost_lines.';

grant usage on type app.cost_line_cells to holdfast_worker, holdfast_service;
