create table if not exists app.cost_daily (
  tenant_id            uuid        not null,
  import_id            uuid        not null,
  row_no               integer     not null,
  billing_period_start timestamptz not null,
  day                  date        not null,
  provider_name        text,
  sub_account_id       text,
  sub_account_name     text,
  service_category     text,
  service_name         text,
  region_id            text,
  charge_category      text        not null,
  correction           boolean     not null,
  billing_currency     text        not null,
  billed_cost          numeric     not null,
  effective_cost       numeric     not null,
  list_cost            numeric     not null,
  contracted_cost      numeric     not null,
  line_count           integer     not null,
  flagged_count        integer     not null,
  doubtful_count       integer     not null,

  constraint cost_daily_pkey primary key (tenant_id, import_id, row_no),
  constraint cost_daily_import_fkey foreign key (tenant_id, import_id)
    references app.cost_imports (tenant_id, id) on delete restrict
);

create index if not exists cost_daily_day_idx on app.cost_daily (tenant_id, import_id, day);

comment on table app.cost_daily is
  'The lines of an import summed by day and dimension; detectors read it. A charge counts on the UTC day it began.';
comment on column app.cost_daily.tenant_id is 'Whose cost it is.';
comment on column app.cost_daily.import_id is 'The file that it came with.';
comment on column app.cost_daily.row_no is 'Counts the rows of one import.';
comment on column app.cost_daily.billing_period_start is 'The billing period of the lines.';
comment on column app.cost_daily.day is 'UTC day in which the charge period began.';
comment on column app.cost_daily.provider_name is 'FOCUS ProviderName.';
comment on column app.cost_daily.sub_account_id is 'FOCUS SubAccountId.';
comment on column app.cost_daily.sub_account_name is 'FOCUS SubAccountName, the last one seen.';
comment on column app.cost_daily.service_category is 'FOCUS ServiceCategory.';
comment on column app.cost_daily.service_name is 'FOCUS ServiceName.';
comment on column app.cost_daily.region_id is 'FOCUS RegionId.';
comment on column app.cost_daily.charge_category is 'FOCUS ChargeCategory.';
comment on column app.cost_daily.correction is 'Whether FOCUS ChargeClass was Correction.';
comment on column app.cost_daily.billing_currency is 'FOCUS BillingCurrency; never summed with another.';
comment on column app.cost_daily.billed_cost is 'Sum of BilledCost.';
comment on column app.cost_daily.effective_cost is 'Sum of EffectiveCost.';
comment on column app.cost_daily.list_cost is 'Sum of ListCost.';
comment on column app.cost_daily.contracted_cost is 'Sum of ContractedCost.';
comment on column app.cost_daily.line_count is 'How many lines were summed.';
comment on column app.cost_daily.flagged_count is 'How many of them have a data-quality flag.';
comment on column app.cost_daily.doubtful_count is
  'How many of them have a flag that touches EffectiveCost; see app_private.doubtful_flags.';

call app_private.isolate('app.cost_daily', for_system => true);
call app_private.fence('app.cost_daily');
grant select, delete on app.cost_daily to holdfast_system;
