create or replace function app_private.json_schema_fault(
  schema jsonb, path text default '$', depth integer default 0)
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  v_fault text;
  v_part  record;
begin
  if schema is null or pg_catalog.jsonb_typeof(schema) <> 'object' then
    return path || ': is no object';
  elsif depth > 16 then
    return path || ': is deeper than 16';
  end if;

  select app_private.json_key(path, k.key) || ': ' || f.fault into v_fault
  from pg_catalog.jsonb_each(schema) as k
  cross join lateral (select app_private.json_keyword_fault(k.key, k.value) as fault) as f
  where f.fault is not null
  limit 1;
  if v_fault is not null then
    return v_fault;
  end if;

  for v_part in
    select app_private.json_key(path, 'properties') as path, p.key, p.value
    from pg_catalog.jsonb_each(schema -> 'properties') as p
    union all
    select path, 'items', schema -> 'items' where schema ? 'items'
  loop
    v_fault := app_private.json_schema_fault(
      v_part.value, app_private.json_key(v_part.path, v_part.key), depth + 1);
    exit when v_fault is not null;
  end loop;
  return v_fault;
end
$$;

comment on function app_private.json_schema_fault is
  'Which part of a JSON Schema app_private.json_fault does not know, as "$.path: what"; null when it knows all of it. A schema is '
  'at most 16 deep.';

grant execute on function app_private.json_schema_fault to holdfast_system;
