create or replace function app_private.llm_settings_set(lock_timeout_ms integer) returns void
language plpgsql
set search_path = ''
as $$
begin
  if coalesce(lock_timeout_ms, 0) not between 1 and 60000 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('lock_timeout_ms', lock_timeout_ms),
      hint    = 'The wait for a budget is 1 to 60,000 ms.';
  end if;
  perform pg_catalog.set_config('lock_timeout', lock_timeout_ms || 'ms', true);
  -- Read at the commit, which an answer or a paid call follows; a setting of the function would be gone by then.
  perform pg_catalog.set_config('synchronous_commit', 'on', true);
end
$$;

comment on function app_private.llm_settings_set is
  'Bounds each wait for a lock until the end of the transaction, and has its commit wait for the disk. Raises OP102.';
