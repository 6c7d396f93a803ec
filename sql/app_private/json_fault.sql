create or replace function app_private.json_fault(schema jsonb, value jsonb, path text default '$')
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  v_types constant jsonb := schema -> 'type';
  v_type  constant text := pg_catalog.jsonb_typeof(value);
  v_fault text;
begin
  if v_types is not null and not exists (
    select from pg_catalog.jsonb_path_query(v_types, 'lax $[*]') as t (name)
    where app_private.json_type_is(t.name #>> '{}', value))
  then
    return path || ': is no ' || (
      select pg_catalog.string_agg(t.name #>> '{}', ' or ')
      from pg_catalog.jsonb_path_query(v_types, 'lax $[*]') as t (name));
  elsif schema ? 'const' and schema -> 'const' <> value then
    return path || ': is not the one value that it may be';
  elsif schema ? 'enum' and not exists (
    select from pg_catalog.jsonb_array_elements(schema -> 'enum') as e (one) where e.one = value)
  then
    return path || ': is none of the values that it may be';
  end if;

  if v_type = 'object' then
    return app_private.json_object_fault(schema, value, path);
  elsif v_type = 'array' then
    return app_private.json_list_fault(schema, value, path);
  elsif v_type = 'string' then
    v_fault := app_private.json_text_fault(schema, value #>> '{}');
  elsif v_type = 'number' and value::numeric < (schema ->> 'minimum')::numeric then
    v_fault := pg_catalog.format('is less than %s', schema ->> 'minimum');
  elsif v_type = 'number' and value::numeric > (schema ->> 'maximum')::numeric then
    v_fault := pg_catalog.format('is more than %s', schema ->> 'maximum');
  end if;
  return path || ': ' || v_fault;
end
$$;

comment on function app_private.json_fault is
  'What is wrong with a value by a JSON Schema, as "$.path: what", never with a part of the value itself; null when nothing is. '
  'It knows type, properties, required, additionalProperties, enum, const, minLength, maxLength, minimum, maximum, pattern '
  '(POSIX), items, minItems, maxItems and format (uuid, date, date-time): app_private.json_schema_fault names what it does not.';

grant execute on function app_private.json_fault to holdfast_system;
