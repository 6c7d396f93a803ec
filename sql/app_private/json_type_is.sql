create or replace function app_private.json_type_is(type text, value jsonb) returns boolean
language sql
immutable
parallel safe
return case type
  when 'integer' then pg_catalog.jsonb_typeof(value) = 'number'
    and case when pg_catalog.jsonb_typeof(value) = 'number'
      then value::numeric = pg_catalog.trunc(value::numeric) else false end
  else pg_catalog.jsonb_typeof(value) = type end;

comment on function app_private.json_type_is is
  'Whether a value is of a type of JSON Schema: 1.0 is an integer, and an integer is a number.';

grant execute on function app_private.json_type_is to holdfast_system;
