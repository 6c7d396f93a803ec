create or replace function app.llm_extend(
  tenant_id uuid, ticket text, reservation_id uuid, ttl interval, lock_timeout_ms integer default 3000,
  of_client boolean default false)
returns table (id uuid, status text, expires_at timestamptz)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
declare
  v_at   constant timestamptz := pg_catalog.clock_timestamp();
  v_held app.llm_reservations;
begin
  perform app.enter(tenant_id, ticket);
  if coalesce(ttl, interval '-1 second') not between interval '0' and interval '1 hour'
    or extract(year from ttl) <> 0 or extract(month from ttl) <> 0 or extract(day from ttl) <> 0
  then
    raise exception using
      errcode = 'LB105',
      message = 'reservation_invalid',
      hint    = 'ttl is at most an hour, in minutes and seconds.';
  end if;
  perform app_private.llm_settings_set(lock_timeout_ms);
  v_held := app_private.llm_reservation_lock(tenant_id, reservation_id, of_client);
  -- Past its time it is presumed, whether or not the sweeper has come by.
  if v_held.status <> 'RESERVED' or v_held.expires_at < v_at then
    perform app_private.llm_closed(v_held);
  end if;

  return query
  update app.llm_reservations as r
  set expires_at = least(greatest(r.expires_at, v_at + ttl), r.created_at + interval '1 day')
  where r.tenant_id = v_held.tenant_id and r.id = v_held.id
  returning r.id, r.status, r.expires_at;
exception when lock_not_available then
  perform app_private.llm_busy();
end
$$;

comment on function app.llm_extend is
  'The heartbeat of a call that goes on: its hold lasts ttl from now, at most an hour, and a day in all. Raises LB104, LB105, '
  'LB201 for one that has ended or is past its time, LB301, OP102. of_client: '
  'for the hold of a run LB104.';

grant execute on function app.llm_extend to holdfast_service, holdfast_worker;
