create or replace function app_private.json_key(path text, name text) returns text
language sql
immutable
parallel safe
return path || case when name ~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$' then '.' || name
  else '[' || pg_catalog.to_json(pg_catalog.left(name, 63))::text || ']' end;

comment on function app_private.json_key is 'The path of a property: $.name, or $["a name"] where it is no identifier.';

grant execute on function app_private.json_key to holdfast_system;
