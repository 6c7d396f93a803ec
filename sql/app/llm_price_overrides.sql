create table if not exists app.llm_price_overrides (
  tenant_id       uuid        not null,
  id              uuid        not null default app_private.uuid_v7(),
  provider        text        not null,
  model           text        not null default '',
  unit            text        not null default '',
  usd_per_million numeric,
  factor          numeric,
  valid           tstzrange   not null,
  created_at      timestamptz not null default now(),

  constraint llm_price_overrides_pkey primary key (tenant_id, id),
  constraint llm_price_overrides_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint llm_price_overrides_unit_known check (unit in ('', 'input', 'cached_input', 'cache_write_5m',
    'cache_write_1h', 'output', 'reasoning', 'request', 'image', 'tool_call')),
  constraint llm_price_overrides_price_or_factor check ((usd_per_million is null) <> (factor is null)),
  constraint llm_price_overrides_price_of_a_unit
    check (usd_per_million is null or (model <> '' and unit <> '')),
  constraint llm_price_overrides_price_sane
    check (usd_per_million >= 0 and usd_per_million <= case
      when unit in ('request', 'image', 'tool_call') then 1000000000 else 100000 end),
  constraint llm_price_overrides_factor_sane check (factor >= 0 and factor <= 10),
  constraint llm_price_overrides_valid_not_empty check (not isempty(valid)),
  constraint llm_price_overrides_one_at_a_time
    exclude using gist (tenant_id with =, provider with =, model with =, unit with =, valid with &&)
);

comment on table app.llm_price_overrides is
  'What a tenant pays instead of app.llm_prices: a price of its own, or a factor (0.9 is a tenth off). The one that names '
  'the model goes before the one that names only the provider, and then the one that names the unit.';
comment on column app.llm_price_overrides.tenant_id is 'Who pays it.';
comment on column app.llm_price_overrides.id is 'The override that a reservation pins.';
comment on column app.llm_price_overrides.provider is 'Who bills.';
comment on column app.llm_price_overrides.model is 'The model; empty: every model of the provider.';
comment on column app.llm_price_overrides.unit is 'As in app.llm_prices; empty: every unit.';
comment on column app.llm_price_overrides.usd_per_million is 'US dollars per million of the unit, instead of the price.';
comment on column app.llm_price_overrides.factor is 'What the price is multiplied by.';
comment on column app.llm_price_overrides.valid is 'When it applies.';
comment on column app.llm_price_overrides.created_at is 'When it was made.';

call app_private.isolate('app.llm_price_overrides', for_system => true);
call app_private.fence('app.llm_price_overrides');
grant select, insert, update on app.llm_price_overrides to holdfast_system;
