create or replace function app_private.turns_fit(tenant_ids uuid[], at_most bigint) returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_full uuid[];
begin
  if at_most is null or pg_catalog.cardinality(tenant_ids) = 0 then
    return tenant_ids;
  end if;
  v_full := array(
    select o.tenant_id from app_private.turns_open(tenant_ids) as o where o.turns > at_most);
  if pg_catalog.cardinality(v_full) = 0 then
    return tenant_ids;
  end if;
  return array(
    select w.tenant_id from unnest(tenant_ids) as w (tenant_id)
    where w.tenant_id not in (select f.tenant_id from unnest(v_full) as f (tenant_id)));
end
$$;

comment on function app_private.turns_fit is
  'Those of these tenants that have no more than so many turns that have not ended; all of them for null.';

grant execute on function app_private.turns_fit to holdfast_system;
