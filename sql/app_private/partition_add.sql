create or replace procedure app_private.partition_add(parent regclass, month_start timestamptz)
language plpgsql
set search_path = ''
set timezone = 'UTC'
as $$
declare
  v_schema constant text := (select n.nspname from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace where c.oid = parent);
  v_name   constant text := (select c.relname from pg_catalog.pg_class as c where c.oid = parent)
    || pg_catalog.to_char(month_start, '"_y"YYYY"m"MM');
  v_system constant boolean := exists (
    select from pg_catalog.pg_policy as p where p.polrelid = parent and p.polname = 'system_all');
begin
  if pg_catalog.to_regclass(pg_catalog.format('%I.%I', v_schema, v_name)) is not null then
    return;
  end if;
  -- Creating a partition takes this lock anyway. Taken first, another caller may have made it while we waited.
  execute pg_catalog.format('lock table %s in access exclusive mode', parent);
  if pg_catalog.to_regclass(pg_catalog.format('%I.%I', v_schema, v_name)) is not null then
    return;
  end if;
  execute pg_catalog.format('create table %I.%I partition of %s for values from (%L) to (%L)',
    v_schema, v_name, parent,
    app_private.uuid_v7_floor(month_start),
    app_private.uuid_v7_floor(month_start + interval '1 month'));
  -- A partition does not inherit row security from its parent.
  call app_private.isolate(pg_catalog.format('%I.%I', v_schema, v_name)::regclass, v_system);
end
$$;

comment on procedure app_private.partition_add is
  'Adds the partition of one month (UTC) to a table that is partitioned by a UUIDv7, isolated from its first moment.';
