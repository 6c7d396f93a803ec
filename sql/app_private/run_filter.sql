-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.run_filter') is null then
    create type app_private.run_filter as (
      run_id     uuid,
      tenant_id  uuid,
      kind       text,
      error_code text,
      since      timestamptz,
      until      timestamptz,
      max_runs   integer
    );
  end if;
end
$$;

comment on type app_private.run_filter is
  'Which dead letters a person means: all that is not null must hold, until excluded, at most max_runs of them.';
