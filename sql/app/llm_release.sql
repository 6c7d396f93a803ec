create or replace function app.llm_release(
  tenant_id uuid, ticket text, reservation_id uuid, reason text, lock_timeout_ms integer default 3000,
  of_client boolean default false)
returns table (id uuid, status text)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.llm_settings_set(lock_timeout_ms);
  return query
  select e.id, e.status
  from app_private.llm_end(tenant_id, reservation_id, 'RELEASED', reason, of_client) as e;
exception when lock_not_available then
  perform app_private.llm_busy();
end
$$;

comment on function app.llm_release is
  'Gives a hold back, with proof that nothing was billed: the call was never sent, or was refused before it was run. '
  'The same call again answers the same. Raises LB104, LB201, LB301, OP102. of_client: '
  'for the hold of a run LB104.';

grant execute on function app.llm_release to holdfast_service, holdfast_worker;
