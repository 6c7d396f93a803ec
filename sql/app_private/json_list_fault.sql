create or replace function app_private.json_list_fault(schema jsonb, value jsonb, path text) returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  v_length constant integer := pg_catalog.jsonb_array_length(value);
  v_fault  text;
begin
  if v_length < (schema ->> 'minItems')::numeric then
    return pg_catalog.format('%s: has fewer than %s items', path, schema ->> 'minItems');
  elsif v_length > (schema ->> 'maxItems')::numeric then
    return pg_catalog.format('%s: has more than %s items', path, schema ->> 'maxItems');
  elsif schema ? 'items' then
    for n in 0 .. v_length - 1 loop
      v_fault := app_private.json_fault(schema -> 'items', value -> n, path || '[' || n || ']');
      exit when v_fault is not null;
    end loop;
  end if;
  return v_fault;
end
$$;

comment on function app_private.json_list_fault is
  'What is wrong with an array by its schema (minItems, maxItems, items), with its path; null when nothing is.';

grant execute on function app_private.json_list_fault to holdfast_system;
