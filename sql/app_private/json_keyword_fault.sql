create or replace function app_private.json_keyword_fault(keyword text, value jsonb) returns text
language sql
immutable
parallel safe
set search_path = ''
as $$
  select case
    when keyword in ('title', 'description', '$schema', 'default', 'examples', 'const') then null
    when keyword = 'type' then case when value = '[]' or exists (
        select from pg_catalog.jsonb_path_query(value, 'lax $[*]') as t (name)
        where t.name #>> '{}' not in ('object', 'array', 'string', 'number', 'integer', 'boolean', 'null'))
      then 'names a type that there is not' end
    when keyword in ('properties', 'items')
      then case when t.type <> 'object' then 'is no object' end
    when keyword = 'additionalProperties'
      then case when t.type <> 'boolean' then 'is neither true nor false' end
    when keyword = 'enum' then case when t.type <> 'array' or value = '[]' then 'is no list of values' end
    when keyword = 'required' then case
      when t.type <> 'array' or pg_catalog.jsonb_path_exists(value, '$[*] ? (@.type() <> "string")')
      then 'is no list of names' end
    when keyword in ('minLength', 'maxLength', 'minItems', 'maxItems')
      then case when not app_private.json_type_is('integer', value) or value < '0' then 'is no count' end
    when keyword in ('minimum', 'maximum') then case when t.type <> 'number' then 'is no number' end
    when keyword = 'pattern' then case
      when t.type <> 'string' or app_private.regex_matches('', value #>> '{}') is null
      then 'is no POSIX regular expression' end
    when keyword = 'format' then case
      when value #>> '{}' not in ('uuid', 'date', 'date-time') then 'is not uuid, date or date-time' end
    else 'is not known here' end
  from pg_catalog.jsonb_typeof(value) as t (type)
$$;

comment on function app_private.json_keyword_fault is
  'What is wrong with one keyword of a JSON Schema; null when app_private.json_fault heeds it, or may pass it over.';

grant execute on function app_private.json_keyword_fault to holdfast_system;
