create table if not exists app.job_slots (
  tenant_id uuid   not null,
  kind      text   not null,
  slot      bigint not null,
  run_id    uuid   not null,

  constraint job_slots_pkey primary key (tenant_id, kind, slot)
);

create index if not exists job_slots_slot_idx on app.job_slots (slot);

comment on table app.job_slots is
  'Which turns of the scheduler were taken: one run per tenant, kind and slot, whoever ticks. Kept for two days, and the '
  'last one of each for ever.';
comment on column app.job_slots.tenant_id is 'Whose turn it is.';
comment on column app.job_slots.kind is 'The kind of run.';
comment on column app.job_slots.slot is 'When the turn began, in seconds since 1970: cohorts share one count of time.';
comment on column app.job_slots.run_id is 'The run that was made.';

call app_private.isolate('app.job_slots', for_system => true);
grant select, insert, update, delete on app.job_slots to holdfast_system;
