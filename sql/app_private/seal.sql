create or replace function app_private.seal(secret bytea, tenant text) returns text
language sql
stable
parallel restricted
return pg_catalog.encode(pg_catalog.sha256(
  secret || pg_catalog.convert_to(tenant, 'UTF8')
  || pg_catalog.int4send(pg_catalog.pg_backend_pid())
  || pg_catalog.timestamptz_send(pg_catalog.transaction_timestamp()) || secret), 'hex');

comment on function app_private.seal is
  'What only this server can compute, for this tenant, backend and transaction: hex of 32 bytes. Its callers read the '
  'secret themselves, so that it becomes a part of their own expressions: a call would cost twice the hash.';
