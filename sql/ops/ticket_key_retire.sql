create or replace function ops.ticket_key_retire(
  kid integer, reason text, after interval default '10 minutes', dry_run boolean default false)
returns table (key_id integer, before timestamptz, ends_at timestamptz)
language plpgsql
security definer  -- the keys that verify a ticket are readable by the owner alone
set search_path = ''
as $$
declare
  v_before  timestamptz;
  v_ends_at timestamptz;
begin
  perform app_private.reason_check(reason);
  if after is null or after < interval '0' or after > interval '30 days' then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('after', after),
      hint    = 'A key ends at once (0) or up to 30 days from now.';
  end if;

  -- All of them are locked: two people must not retire two keys as if each left the other.
  perform from app_private.ticket_keys as k order by k.kid for no key update;
  select k.not_after into v_before from app_private.ticket_keys as k where k.kid = ticket_key_retire.kid;
  if not found then
    perform app_private.ticket_key_missing(kid);
  end if;
  if not exists (
    select from app_private.ticket_keys as k where k.kid <> ticket_key_retire.kid and k.not_after is null)
  then
    raise exception using
      errcode = 'TK201',
      message = 'ticket_key_last',
      detail  = pg_catalog.jsonb_build_object('kid', kid),
      hint    =
        'Nobody could enter any more. First the next one: a new TICKET_KEY and TICKET_KEY_ID, npm run db:migrate.';
  end if;

  -- Never later than it was to end: one that was stolen must not come back.
  v_ends_at := least(v_before, pg_catalog.clock_timestamp() + after);
  if not dry_run then
    update app_private.ticket_keys as k set not_after = v_ends_at where k.kid = ticket_key_retire.kid;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('ticket_key_retire', 'ticket key ' || kid, reason,
            pg_catalog.jsonb_build_object('not_after', v_before),
            pg_catalog.jsonb_build_object('not_after', v_ends_at));
  end if;
  return query select kid, v_before, v_ends_at;
end
$$;

comment on function ops.ticket_key_retire is
  'Ends a ticket key, after a while in which programs that still use it are restarted with the next one; after => 0 ends '
  'a stolen one at once. What has an end already never gets a later one. Audited; dry_run shows the change. Raises TK101, '
  'TK201 for the last key in use, OP101, OP102.';

grant execute on function ops.ticket_key_retire to holdfast_ops;
