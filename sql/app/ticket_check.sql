create or replace function app.ticket_check(ticket text) returns boolean
language plpgsql
stable
security definer  -- the keys that verify a ticket are readable by the owner alone
set search_path = ''
as $$
begin
  perform app_private.ticket_tenant(ticket);
  return true;
exception
  when sqlstate 'RL101' then
    return false;
end
$$;

comment on function app.ticket_check is
  'Whether a ticket would be let in now, without entering its tenant and without saying why not: a program finds out '
  'whether its key and its clock are right.';

grant execute on function app.ticket_check to holdfast_service, holdfast_worker;
