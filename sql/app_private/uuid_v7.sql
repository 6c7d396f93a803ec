create or replace function app_private.uuid_v7() returns uuid
language sql
volatile
parallel safe
set search_path = ''
as $$
  -- Over a random UUID: 48 bits of milliseconds, the version 7, and 12 bits of the fraction of the millisecond, so that
  -- ids made one after the other sort so, down to the microsecond of the clock.
  select pg_catalog.encode(
    overlay(pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
      placing substring(pg_catalog.int8send(pg_catalog.floor(t.ms)::bigint) from 3)
        || substring(pg_catalog.int4send(28672
             + pg_catalog.floor((t.ms - pg_catalog.floor(t.ms)) * 4096)::integer) from 3)
      from 1 for 8),
    'hex')::uuid
  from (select extract(epoch from pg_catalog.clock_timestamp()) * 1000 as ms) as t
$$;

comment on function app_private.uuid_v7 is
  'A UUID of version 7 (RFC 9562, section 5.7, with the fraction of section 6.2, method 3): it sorts by the moment it '
  'was made. PostgreSQL 15 has none of its own.';

grant execute on function app_private.uuid_v7 to holdfast_system;
