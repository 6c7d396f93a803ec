create or replace function app_private.llm_busy() returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'LB301',
    message = 'budget_busy',
    hint    =
      'Others keep the budget locked. Try again in a second; ops.doctor() and pg_stat_activity show who.';
end
$$;

comment on function app_private.llm_busy is 'Raises LB301: the budget was locked by others for too long.';
