create or replace function ops.ticket_key_set(
  kid integer, binding text, reason text, dry_run boolean default false)
returns table (key_id integer, before text, after text)
language plpgsql
security definer  -- the keys that verify a ticket are readable by the owner alone
set search_path = ''
as $$
declare
  v_before text;
begin
  perform app_private.reason_check(reason);
  if binding is null or binding not in ('backend', 'none') then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('binding', binding),
      hint    = 'A binding is backend (direct connections) or none (behind a transaction pooler).';
  end if;

  select k.binding into v_before
  from app_private.ticket_keys as k where k.kid = ticket_key_set.kid
  for no key update;
  if not found then
    perform app_private.ticket_key_missing(kid);
  end if;

  if not dry_run then
    update app_private.ticket_keys as k set binding = ticket_key_set.binding where k.kid = ticket_key_set.kid;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('ticket_key_set', 'ticket key ' || kid, reason,
            pg_catalog.jsonb_build_object('binding', v_before),
            pg_catalog.jsonb_build_object('binding', ticket_key_set.binding));
  end if;
  return query select kid, v_before, ticket_key_set.binding;
end
$$;

comment on function ops.ticket_key_set is
  'Sets whether the tickets of a key must name the backend that they are good for; audited. none is for programs behind '
  'a transaction pooler, which take it over at their next start. dry_run shows the change. Raises TK101, OP101, OP102.';

grant execute on function ops.ticket_key_set to holdfast_ops;
