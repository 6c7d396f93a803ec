create table if not exists app.llm_reservation_keys (
  tenant_id       uuid        not null,
  idempotency_key text        not null,
  fingerprint     text        not null,
  reservation_id  uuid        not null,
  created_at      timestamptz not null default now(),

  constraint llm_reservation_keys_pkey primary key (tenant_id, idempotency_key),
  constraint llm_reservation_keys_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint llm_reservation_keys_key_length check (length(idempotency_key) between 1 and 255)
);

create index if not exists llm_reservation_keys_created_at_idx
  on app.llm_reservation_keys using brin (created_at);

comment on table app.llm_reservation_keys is
  'Which reservation an idempotency key made. Apart from the reservations, '
  'whose unique keys must hold their partition key.';
comment on column app.llm_reservation_keys.tenant_id is 'Whose key it is; another tenant may use the same.';
comment on column app.llm_reservation_keys.idempotency_key is 'What the caller named its request.';
comment on column app.llm_reservation_keys.fingerprint is
  'Digest of the request: the same key with another request is refused.';
comment on column app.llm_reservation_keys.reservation_id is 'The reservation that was made.';
comment on column app.llm_reservation_keys.created_at is 'When it was first used.';

call app_private.isolate('app.llm_reservation_keys', for_system => true);
grant select, update, delete on app.llm_reservation_keys to holdfast_system;
