create or replace function app.migration_applied(file_name text) returns boolean
language plpgsql
stable
security definer  -- the list of migrations is readable by the owner alone
set search_path = ''
as $$
begin
  if pg_catalog.to_regclass('graphile_migrate.migrations') is null then
    return false;
  end if;
  return exists (select from graphile_migrate.migrations as m where m.filename = file_name);
end
$$;

comment on function app.migration_applied is
  'Whether a committed migration, named by its number as in 000001.sql, has been run here. Knows no tenant.';

grant execute on function app.migration_applied to holdfast_service, holdfast_worker;
