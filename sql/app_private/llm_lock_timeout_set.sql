create or replace function app_private.llm_lock_timeout_set(ms integer) returns void
language plpgsql
set search_path = ''
as $$
begin
  if coalesce(ms, 0) not between 1 and 60000 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('lock_timeout_ms', ms),
      hint    = 'The wait for a budget is 1 to 60,000 ms.';
  end if;
  perform pg_catalog.set_config('lock_timeout', ms || 'ms', true);
end
$$;

comment on function app_private.llm_lock_timeout_set is
  'Bounds each wait for a lock until the end of the transaction. Raises OP102.';
