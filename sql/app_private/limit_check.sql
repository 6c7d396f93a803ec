create or replace function app_private.limit_check(
  limit_usd numeric, unlimited boolean, period text, scope text, scope_id text) returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  v_wrong text := case
    when unlimited is null then 'unlimited'
    when unlimited <> (limit_usd is null) then 'limit_usd'
    when coalesce(period not in ('day', 'week', 'month', 'total'), true) then 'period'
    when coalesce(scope not in ('tenant', 'api_key', 'user', 'model', 'tag'), true) then 'scope'
    when coalesce((scope = 'tenant') <> (scope_id = '') or pg_catalog.length(scope_id) > 200, true)
      or (scope = 'model' and scope_id !~ '^[^/]+/.') then 'scope_id' end;
begin
  if v_wrong is not null then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    =
        'limit_usd is null only together with unlimited => true. A period is day, week, month or total; a scope is tenant, '
        'api_key, user, model or tag, and all but the tenant have a scope_id of 1 to 200 characters; that of a model is '
        'provider/model.';
  end if;
end
$$;

comment on function app_private.limit_check is 'Raises OP102 unless a budget may have this limit, period and scope.';

grant execute on function app_private.limit_check to holdfast_system;
