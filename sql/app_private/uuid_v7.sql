create or replace function app_private.uuid_v7() returns uuid
language sql
volatile
parallel safe
-- In hex: the millisecond in 12 digits and its fraction in 3, the version between them, and half a random UUID behind. One
-- expression that reads the clock once, so that the planner puts it in the place of the call.
return (overlay(
    pg_catalog.lpad(pg_catalog.to_hex(
      pg_catalog.floor(extract(epoch from pg_catalog.clock_timestamp()) * 4096000)::bigint), 15, '0')
    placing '7' from 13 for 0)
  || pg_catalog.right(pg_catalog.gen_random_uuid()::text, 17))::uuid;

comment on function app_private.uuid_v7 is
  'A UUID of version 7 (RFC 9562, section 5.7, with the fraction of section 6.2, method 3): it sorts by the moment it '
  'was made, to a quarter of a microsecond. PostgreSQL 15 has none of its own.';

grant execute on function app_private.uuid_v7 to holdfast_system;
