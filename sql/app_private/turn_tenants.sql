create or replace function app_private.turn_tenants(
  cohort app.tiers, shard smallint, resume_after uuid, max_rows integer)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
begin
  return array(
    select t.tenant_id
    from app.tenants as t
    where t.tier = cohort.tier
      and t.shard = turn_tenants.shard
      and t.tenant_id > coalesce(turn_tenants.resume_after, '00000000-0000-0000-0000-000000000000')
      and t.status = 'ACTIVE'
      and t.jobs_paused_at is null
      and not exists (select from app.tenant_schedules as s where s.tenant_id = t.tenant_id)
    order by t.tenant_id
    limit max_rows);
end
$$;

comment on function app_private.turn_tenants is
  'The tenants of a shard, after the one named, that take part in its turns: active, not paused, and without turns of their '
  'own.';

grant execute on function app_private.turn_tenants to holdfast_system;
