create or replace function app_private.run_filter_of(filter jsonb) returns app_private.run_filter
language plpgsql
stable
set search_path = ''
as $$
declare
  v_known  constant text[] := array['run', 'tenant', 'kind', 'error_code', 'since', 'until', 'max_runs'];
  v_filter app_private.run_filter;
  v_faults text[];
begin
  v_faults := case when pg_catalog.jsonb_typeof(filter) = 'object'
    then array(
      select k.name from pg_catalog.jsonb_object_keys(filter) as k (name) where k.name <> all (v_known))
    else array['filter'] end;
  if v_faults = '{}' then
    begin
      v_filter := row((filter ->> 'run')::uuid, null, filter ->> 'kind', filter ->> 'error_code',
        (filter ->> 'since')::timestamptz, (filter ->> 'until')::timestamptz,
        coalesce((filter ->> 'max_runs')::integer, 1000));
    exception when data_exception then
      v_faults := array['run', 'since', 'until', 'max_runs'];
    end;
  end if;
  if v_faults <> '{}' or v_filter.max_runs not between 1 and 10000 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object(
        'argument', 'filter', 'keys', coalesce(nullif(v_faults, '{}'), '{max_runs}')),
      hint    = 'A filter is a JSON object with any of run, tenant (its name), kind, error_code, since, '
                'until and max_runs: 1 to 10000, and 1000 if it is left out.';
  end if;

  if filter ? 'tenant' then
    v_filter.tenant_id := app.tenant_find(filter ->> 'tenant');
  end if;
  return v_filter;
end
$$;

comment on function app_private.run_filter_of is
  'What a filter of ops.job_replay and ops.job_discard says. Raises OP102 for what it does not know, and names it; TN101.';

grant execute on function app_private.run_filter_of to holdfast_system;
