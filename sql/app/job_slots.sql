create table if not exists app.job_slots (
  tenant_id uuid   not null,
  kind      text   not null,
  slot      bigint not null,
  run_id    uuid   not null,

  constraint job_slots_pkey primary key (tenant_id, kind, slot),
  constraint job_slots_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint job_slots_kind_fkey foreign key (kind) references app.job_kinds (kind) on delete restrict
);

create index if not exists job_slots_kind_idx on app.job_slots (kind);

comment on table app.job_slots is
  'Which turns of the scheduler were taken: one run per tenant, kind and slot, whoever ticks.';
comment on column app.job_slots.tenant_id is 'Whose turn it is.';
comment on column app.job_slots.kind is 'The kind of run.';
comment on column app.job_slots.slot is 'The number of the period since 1970, shifted by the phase of the shard.';
comment on column app.job_slots.run_id is 'The run that was made.';

call app_private.isolate('app.job_slots', for_system => true);
grant select, insert on app.job_slots to holdfast_system;
