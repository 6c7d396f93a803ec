-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.token') is null then
    create type app_private.token as (
      tenant_id    uuid,
      run_id       uuid,
      attempt      integer,
      available_at timestamptz,
      priority     smallint
    );
  end if;
end
$$;

comment on type app_private.token is
  'What a token of the queue says: which run to wake a worker up for, when, and before which others.';
