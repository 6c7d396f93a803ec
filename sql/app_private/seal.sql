create or replace function app_private.seal(tenant text) returns text
language sql
stable
parallel restricted
set search_path = ''
as $$
  select pg_catalog.encode(pg_catalog.sha256(s.secret || pg_catalog.convert_to(
           tenant || '|' || pg_catalog.pg_backend_pid() || '|'
           || extract(epoch from pg_catalog.transaction_timestamp()), 'UTF8') || s.secret), 'hex')
  from app_private.seal_secret as s
$$;

comment on function app_private.seal is
  'What only this server can compute, for this tenant, backend and transaction: hex of 32 bytes.';
