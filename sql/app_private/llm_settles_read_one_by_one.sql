create or replace function app_private.llm_settles_read_one_by_one(settles jsonb)
returns app_private.llm_settle[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  v_settles app_private.llm_settle[] := array[]::app_private.llm_settle[];
  v_settle  app_private.llm_settle;
begin
  for n in 0 .. pg_catalog.jsonb_array_length(settles) - 1 loop
    if pg_catalog.jsonb_array_length(settles) > 1 then
      v_settle := (app_private.llm_settles_read(pg_catalog.jsonb_build_array(settles -> n)))[1];
    else
      v_settle.refusal := 'reservation_invalid';
      v_settle.detail := pg_catalog.jsonb_build_object('fault', 'A field has a value of the wrong type.');
    end if;
    v_settle.n := n + 1;
    v_settles := v_settles || v_settle;
  end loop;
  return v_settles;
end
$$;

comment on function app_private.llm_settles_read_one_by_one is
  'Reads a list in which something is of the wrong type, so that it refuses no other.';
