create or replace function app_private.json_object_fault(schema jsonb, value jsonb, path text) returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  v_known constant jsonb := coalesce(schema -> 'properties', '{}');
  v_name  text;
  v_fault text;
begin
  v_name := (
    select r.name from pg_catalog.jsonb_array_elements_text(schema -> 'required') as r (name)
    where not value ? r.name limit 1);
  if v_name is not null then
    return app_private.json_key(path, v_name) || ': is missing';
  end if;

  if schema -> 'additionalProperties' = 'false' then
    v_name := (
      select k.name from pg_catalog.jsonb_object_keys(value) as k (name) where not v_known ? k.name limit 1);
    if v_name is not null then
      return app_private.json_key(path, v_name) || ': is not a property that there is';
    end if;
  end if;

  for v_name in select k.name from pg_catalog.jsonb_object_keys(v_known) as k (name) where value ? k.name loop
    v_fault := app_private.json_fault(v_known -> v_name, value -> v_name, app_private.json_key(path, v_name));
    exit when v_fault is not null;
  end loop;
  return v_fault;
end
$$;

comment on function app_private.json_object_fault is
  'What is wrong with an object by its schema (required, properties, additionalProperties), with its path; null when '
  'nothing is.';

grant execute on function app_private.json_object_fault to holdfast_system;
