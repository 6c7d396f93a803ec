create or replace function app_private.nanousd(usd numeric) returns bigint
language plpgsql
immutable
set search_path = ''
as $$
begin
  -- NaN is above every number, so the upper bound refuses it too.
  if usd is null or not (usd >= 0 and usd <= 1000000000) then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('usd', usd::text),
      hint    = 'An amount is 0 to 1,000,000,000 US dollars.';
  end if;
  return pg_catalog.floor(usd * 1000000000)::bigint;
end
$$;

comment on function app_private.nanousd is
  'US dollars as nano-USD, rounded down: a limit is never more than was said. Raises OP102.';

grant execute on function app_private.nanousd to holdfast_system;
