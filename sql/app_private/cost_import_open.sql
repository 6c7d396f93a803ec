create or replace function app_private.cost_import_open(tenant_id uuid, import_id uuid, wanted_status text)
returns app.cost_imports
language plpgsql
set search_path = ''
as $$
declare
  v_import app.cost_imports;
begin
  select i.* into v_import
  from app.cost_imports as i
  where i.tenant_id = cost_import_open.tenant_id and i.id = import_id
  for no key update;

  if not found then
    raise exception using
      errcode = 'IM101',
      message = 'import_not_found',
      hint    = 'select * from ops.imports lists the imports of every tenant.';
  end if;
  if v_import.status <> wanted_status then
    raise exception using
      errcode = 'IM201',
      message = 'import_closed',
      detail  = pg_catalog.jsonb_build_object('status', v_import.status, 'wanted', wanted_status),
      hint    = 'An import is added to, rolled up and published once. Start another.';
  end if;
  return v_import;
end
$$;

comment on function app_private.cost_import_open is
  'The import, locked, when it is in the wanted status. Raises IM101 when there is none, IM201 when it is in another.';
