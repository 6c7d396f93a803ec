create or replace function app.llm_release(tenant_id uuid, ticket text, reservation_id uuid, reason text)
returns table (id uuid, status text)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  return query select * from app_private.llm_end(tenant_id, reservation_id, 'RELEASED', reason);
end
$$;

comment on function app.llm_release is
  'Gives a hold back, with proof that nothing was billed: the call was never sent, or was refused before it was run. '
  'The same call again answers the same. Raises LB104, LB201.';

grant execute on function app.llm_release to holdfast_service, holdfast_worker;
