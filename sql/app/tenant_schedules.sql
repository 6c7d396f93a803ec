create table if not exists app.tenant_schedules (
  tenant_id    uuid        not null,
  every        interval,
  daily_at     time,
  next_run_at  timestamptz not null,
  last_slot    bigint,
  missed_slots bigint      not null default 0,

  constraint tenant_schedules_pkey primary key (tenant_id),
  constraint tenant_schedules_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint tenant_schedules_every_or_daily check ((every is null) <> (daily_at is null)),
  constraint tenant_schedules_every_sane check (every >= interval '1 minute' and every <= interval '31 days'),
  constraint tenant_schedules_every_without_months
    check (extract(month from every) = 0 and extract(year from every) = 0),
  constraint tenant_schedules_missed_slots_positive check (missed_slots >= 0)
);

create index if not exists tenant_schedules_next_run_at_idx on app.tenant_schedules (next_run_at);

comment on table app.tenant_schedules is
  'Tenants with turns of their own instead of those of their cohort; the policies of the cohort hold for them too.';
comment on column app.tenant_schedules.tenant_id is 'Whose turns they are.';
comment on column app.tenant_schedules.every is 'The time between two turns; null for daily ones.';
comment on column app.tenant_schedules.daily_at is
  'The time of day in the tenant''s time zone: once on each date, also on those on which clocks change. Null otherwise.';
comment on column app.tenant_schedules.next_run_at is 'Due from this moment on.';
comment on column app.tenant_schedules.last_slot is 'When the last turn began, in seconds since 1970.';
comment on column app.tenant_schedules.missed_slots is 'How many turns passed without a run of their own, since ever.';

call app_private.isolate('app.tenant_schedules', for_system => true);
grant select, insert, update, delete on app.tenant_schedules to holdfast_system;
