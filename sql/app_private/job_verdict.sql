-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.job_verdict') is null then
    create type app_private.job_verdict as (
      tenant_id uuid,
      run_id    uuid,
      kind      text,
      verdict   text,
      delay     interval,
      state     text
    );
  end if;
end
$$;

comment on type app_private.job_verdict is
  'Whether a run may start: start; parked, until its tenant has a place; delayed, for so long. state is the one it was found in.';
