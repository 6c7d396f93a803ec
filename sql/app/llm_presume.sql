create or replace function app.llm_presume(
  tenant_id uuid, ticket text, reservation_id uuid, reason text, lock_timeout_ms integer default 3000)
returns table (id uuid, status text)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.llm_settings_set(lock_timeout_ms);
  return query
  select e.id, e.status from app_private.llm_end(tenant_id, reservation_id, 'PRESUMED', reason) as e;
exception when lock_not_available then
  perform app_private.llm_busy();
end
$$;

comment on function app.llm_presume is
  'Marks a hold whose outcome is unknown: the call may have been billed, so it counts until it is settled or written '
  'off. The same call again answers the same. Raises LB104, LB201, LB301, OP102.';

grant execute on function app.llm_presume to holdfast_service, holdfast_worker;
