create or replace function app.cost_import_start(
  tenant_id uuid, ticket text, source text, file_name text, focus_version text) returns uuid
language plpgsql
security definer  -- the shell may not write imports
set search_path = ''
as $$
declare
  v_import_id uuid;
begin
  perform app.enter(tenant_id, ticket);
  if coalesce(pg_catalog.length(source), 0) not between 1 and 100
    or coalesce(pg_catalog.length(file_name), 0) = 0
    or coalesce(pg_catalog.length(focus_version), 0) not between 1 and 20
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('source', source, 'file_name', file_name,
                  'focus_version', focus_version),
      hint    = 'An import has a source of 1 to 100 characters, the name of its file and its FOCUS version.';
  end if;

  insert into app.cost_imports (tenant_id, source, file_name, focus_version)
  values (cost_import_start.tenant_id, cost_import_start.source,
          pg_catalog.right(cost_import_start.file_name, 255), cost_import_start.focus_version)
  returning id into v_import_id;

  return v_import_id;
end
$$;

comment on function app.cost_import_start is
  'Opens an import; add lines to it, roll it up, publish it. Nothing of it is seen before it is published. '
  'Raises OP102.';

grant execute on function app.cost_import_start to holdfast_service, holdfast_worker;
