-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.llm_period') is null then
    create type app_private.llm_period as (
      place            integer,
      budget_id        uuid,
      scope            text,
      scope_id         text,
      period           text,
      period_start     timestamptz,
      period_end       timestamptz,
      limit_nanousd    bigint,
      spent_nanousd    bigint,
      reserved_nanousd bigint,
      presumed_nanousd bigint,
      made             boolean
    );
  end if;
end
$$;

comment on type app_private.llm_period is
  'A budget in the period that a call would fall into, in the order in which they are locked: that of the whole tenant, '
  'which all calls share, comes last. The limit is null where it is unlimited; made: '
  'its row of app.llm_budget_periods is there.';
