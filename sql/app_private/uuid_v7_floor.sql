create or replace function app_private.uuid_v7_floor(at timestamptz) returns uuid
language sql
immutable
parallel safe
set search_path = ''
as $$
  select (pg_catalog.lpad(pg_catalog.to_hex((extract(epoch from at) * 1000)::bigint), 12, '0')
    || '0000' || '0000' || '000000000000')::uuid
$$;

comment on function app_private.uuid_v7_floor is
  'The smallest identifier that uuid_v7 could make at that moment; partition bounds and time ranges use it.';

grant execute on function app_private.uuid_v7_floor to holdfast_system, holdfast_ops;
