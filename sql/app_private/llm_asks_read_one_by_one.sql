create or replace function app_private.llm_asks_read_one_by_one(asks jsonb) returns app_private.llm_ask[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  v_asks app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask  app_private.llm_ask;
begin
  for n in 0 .. pg_catalog.jsonb_array_length(asks) - 1 loop
    if pg_catalog.jsonb_array_length(asks) > 1 then
      v_ask := (app_private.llm_asks_read(pg_catalog.jsonb_build_array(asks -> n)))[1];
    else
      v_ask.refusal := 'reservation_invalid';
      v_ask.detail := pg_catalog.jsonb_build_object('fault', 'A field has a value of the wrong type.');
    end if;
    v_ask.n := n + 1;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
end
$$;

comment on function app_private.llm_asks_read_one_by_one is
  'Reads a list in which something is of the wrong type, so that it refuses no other.';
