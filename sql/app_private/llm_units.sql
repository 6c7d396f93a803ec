-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.llm_units') is null then
    create type app_private.llm_units as (
      input          bigint,
      cached_input   bigint,
      cache_write_5m bigint,
      cache_write_1h bigint,
      output         bigint,
      reasoning      bigint,
      request        bigint,
      image          bigint,
      tool_call      bigint
    );
  end if;
end
$$;

comment on type app_private.llm_units is
  'What a call used: input has all input tokens, those read from and written to a cache among them; output has all output '
  'tokens, reasoning among them. None is null.';
