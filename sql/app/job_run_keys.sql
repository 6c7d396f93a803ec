create table if not exists app.job_run_keys (
  tenant_id       uuid        not null,
  idempotency_key text        not null,
  fingerprint     text        not null,
  run_id          uuid        not null,
  created_at      timestamptz not null default now(),

  constraint job_run_keys_pkey primary key (tenant_id, idempotency_key),
  constraint job_run_keys_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint job_run_keys_key_length check (length(idempotency_key) between 1 and 255)
);

create index if not exists job_run_keys_created_at_idx on app.job_run_keys (created_at);

comment on table app.job_run_keys is 'Which run an idempotency key made. Kept for 30 days.';
comment on column app.job_run_keys.tenant_id is 'Whose key it is; another tenant may use the same.';
comment on column app.job_run_keys.idempotency_key is 'What the caller named its request.';
comment on column app.job_run_keys.fingerprint is
  'Digest of the request: the same key with another request is refused.';
comment on column app.job_run_keys.run_id is 'The run that was made.';
comment on column app.job_run_keys.created_at is 'When it was first used.';

call app_private.isolate('app.job_run_keys', for_system => true);
grant select, update, delete on app.job_run_keys to holdfast_system;
