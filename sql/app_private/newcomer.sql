-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.newcomer') is null then
    create type app_private.newcomer as (
      tenant_id uuid,
      every     interval,
      slot      bigint,
      next_at   timestamptz,
      next_slot bigint,
      at_once   boolean
    );
  end if;
end
$$;

comment on type app_private.newcomer is
  'Where a tenant stands in a cohort that it has come to: the period, the slot that has begun, the next turn that it could '
  'take, and whether it has one at once.';
