create or replace function app_private.run_actor_check(actor text, reason text) returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  perform app_private.reason_check(reason);
  if coalesce(pg_catalog.btrim(actor), '') = '' or pg_catalog.length(reason) > 500 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object(
        'argument', case when pg_catalog.length(reason) > 500 then 'reason' else 'actor' end),
      hint    = 'Say who does it, and why in at most 500 characters: the run keeps both.';
  end if;
end
$$;

comment on function app_private.run_actor_check is
  'Raises OP101 without a reason of at least 3 characters; OP102 without an actor, or for more than 500 characters.';

grant execute on function app_private.run_actor_check to holdfast_system;
