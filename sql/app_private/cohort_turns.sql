-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.cohort_turns') is null then
    create type app_private.cohort_turns as (
      cohort     text,
      runs       bigint,
      shards     bigint,
      overlapped bigint,
      duplicates bigint
    );
  end if;
end
$$;

comment on type app_private.cohort_turns is
  'What a tick did in a cohort: the runs it made, the shards it dealt with, the turns that tenants did not have because those '
  'before had not ended, and those that they had already.';
