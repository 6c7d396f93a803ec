-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.llm_rates') is null then
    create type app_private.llm_rates as (
      input          numeric,
      cached_input   numeric,
      cache_write_5m numeric,
      cache_write_1h numeric,
      output         numeric,
      reasoning      numeric,
      request        numeric,
      image          numeric,
      tool_call      numeric
    );
  end if;
end
$$;

comment on type app_private.llm_rates is
  'What a call pays, in US dollars per million of each unit. None is null.';
