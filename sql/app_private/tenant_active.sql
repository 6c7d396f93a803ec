create or replace function app_private.tenant_active(tenant_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  if exists (
    select from app.tenants as t
    where t.tenant_id = tenant_active.tenant_id and t.last_active_at >= pg_catalog.now() - interval '1 hour')
  then
    return;
  end if;
  -- Nobody waits to be noted: what holds the row now notes it, or the next call does.
  update app.tenants as t
  set last_active_at = pg_catalog.now()
  where t.tenant_id in (
    select x.tenant_id from app.tenants as x
    where x.tenant_id = tenant_active.tenant_id
      and x.last_active_at < pg_catalog.now() - interval '1 hour'
    for no key update skip locked);
end
$$;

comment on function app_private.tenant_active is
  'Notes that the tenant asked for something, at most once an hour: its cohort follows from that at the next app.tiers_derive.';
