create or replace function app.llm_presume(tenant_id uuid, ticket text, reservation_id uuid, reason text)
returns table (id uuid, status text)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  return query select * from app_private.llm_end(tenant_id, reservation_id, 'PRESUMED', reason);
end
$$;

comment on function app.llm_presume is
  'Marks a hold whose outcome is unknown: the call may have been billed, so it counts until it is settled or written '
  'off. The same call again answers the same. Raises LB104, LB201.';

grant execute on function app.llm_presume to holdfast_service, holdfast_worker;
