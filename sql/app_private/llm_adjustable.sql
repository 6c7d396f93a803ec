create or replace function app_private.llm_adjustable(
  held app.llm_reservations, settle app_private.llm_settle)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return (held.status = 'WRITTEN_OFF' or exists (
      select from app.llm_usage as u
      where u.tenant_id = held.tenant_id and u.reservation_id = held.id and u.status = 'SETTLED'
        and u.source = 'estimated'))
    and not exists (
      select from app.llm_usage as u
      where u.tenant_id = held.tenant_id and u.reservation_id = held.id and u.status = 'ADJUSTED'
        and u.source = 'provider')
    and (app_private.llm_settle_again(held, settle)).refusal is not null;
end
$$;

comment on function app_private.llm_adjustable is
  'Whether a hold that has ended may still learn, once, what its call did cost: it was written off, or charged '
  'by an estimate. The same settle again is none.';
