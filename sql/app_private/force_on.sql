create or replace procedure app_private.force_on(variadic targets regclass[])
language plpgsql
set search_path = ''
as $$
declare
  v_target regclass;
begin
  foreach v_target in array targets loop
    execute pg_catalog.format('alter table %s force row level security', v_target);
  end loop;
end
$$;

comment on procedure app_private.force_on is 'Ends what force_off began: row security binds the owner again.';
