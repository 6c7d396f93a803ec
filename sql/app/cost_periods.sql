create table if not exists app.cost_periods (
  tenant_id            uuid        not null,
  source               text        not null,
  billing_period_start timestamptz not null,
  import_id            uuid        not null,
  published_at         timestamptz not null default now(),

  constraint cost_periods_pkey primary key (tenant_id, source, billing_period_start),
  constraint cost_periods_import_fkey foreign key (tenant_id, import_id)
    references app.cost_imports (tenant_id, id) on delete restrict
);

create index if not exists cost_periods_import_id_idx on app.cost_periods (tenant_id, import_id);

comment on table app.cost_periods is
  'Which import is the truth for a billing period of a source. Publishing an import moves the pointer.';
comment on column app.cost_periods.tenant_id is 'Whose period it is.';
comment on column app.cost_periods.source is 'The source of the files.';
comment on column app.cost_periods.billing_period_start is 'FOCUS BillingPeriodStart.';
comment on column app.cost_periods.import_id is 'The import whose lines of this period are seen.';
comment on column app.cost_periods.published_at is 'When the pointer was last moved.';

call app_private.isolate('app.cost_periods', for_system => true);
call app_private.fence('app.cost_periods');
grant select on app.cost_periods to holdfast_system;
