create or replace function app_private.uuid_v7() returns uuid
language sql
volatile
parallel safe
set search_path = ''
as $$
  -- 48 bits of milliseconds over a random UUID; the version nibble goes from 4 to 7 by setting two bits.
  select pg_catalog.encode(
    pg_catalog.set_bit(
      pg_catalog.set_bit(
        overlay(
          pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
          placing substring(
            pg_catalog.int8send((extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint) from 3)
          from 1 for 6),
        52, 1),
      53, 1),
    'hex')::uuid
$$;

comment on function app_private.uuid_v7 is
  'A UUID of version 7 (RFC 9562, section 5.7): it sorts by the moment it was made. PostgreSQL 15 has none of its own.';

grant execute on function app_private.uuid_v7 to holdfast_system;
