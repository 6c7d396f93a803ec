create or replace procedure app_private.force_off(variadic targets regclass[])
language plpgsql
set search_path = ''
as $$
declare
  v_target regclass;
begin
  foreach v_target in array targets loop
    execute pg_catalog.format('alter table %s no force row level security', v_target);
  end loop;
end
$$;

comment on procedure app_private.force_off is
  'Lets the owner see all rows of the tables, for a data step of a migration. force_on must follow in the same file.';
