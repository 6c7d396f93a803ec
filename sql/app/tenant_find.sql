set local role holdfast_system;

create or replace function app.tenant_find(name text) returns uuid
language plpgsql
stable
security definer  -- nobody has entered yet
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id uuid;
begin
  select t.tenant_id into v_tenant_id from app.tenants as t where t.name = tenant_find.name;
  if not found then
    raise exception using
      errcode = 'TN101',
      message = 'tenant_not_found',
      detail  = pg_catalog.jsonb_build_object('name', tenant_find.name),
      hint    = 'select tenant from ops.tenants lists them; ops.tenant_add makes one.';
  end if;
  return v_tenant_id;
end
$$;

comment on function app.tenant_find is 'The id of the tenant with that name, among all tenants. Raises TN101.';

grant execute on function app.tenant_find to holdfast_ops, holdfast_worker, holdfast_owner;

set local role holdfast_owner;
