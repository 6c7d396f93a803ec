create or replace function app_private.shards_hold(tenant_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  perform
  from app.schedules as s
  where s.shard = (select t.shard from app.tenants as t where t.tenant_id = shards_hold.tenant_id)
  order by s.tier
  for no key update;
end
$$;

comment on function app_private.shards_hold is
  'Waits until no tick is at the shard of a tenant, in any cohort, and keeps ticks away from it until the end of the '
  'transaction. To be called before anything else is locked: ticks never wait for these rows, so nothing can deadlock.';

grant execute on function app_private.shards_hold to holdfast_system;
