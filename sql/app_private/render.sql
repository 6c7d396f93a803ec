create or replace function app_private.render(template text, slots jsonb) returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  v_slot record;
  v_text text := template;
begin
  for v_slot in select s.key, s.value from pg_catalog.jsonb_each_text(slots) as s loop
    v_text := pg_catalog.replace(v_text, '{{' || v_slot.key || '}}', coalesce(v_slot.value, ''));
  end loop;
  return v_text;
end
$$;

comment on function app_private.render is
  'Puts the values of slots into {{name}} of a text. Rendered when it is read, so that corrected data correct the prose.';

grant execute on function app_private.render to holdfast_system, holdfast_ops;
