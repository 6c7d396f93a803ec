create or replace function app_private.job_kind_with(kind text, changes jsonb) returns app.job_kinds
language plpgsql
stable
set search_path = ''
as $$
declare
  v_kind  app.job_kinds;
  v_fault text;
begin
  select k.* into v_kind from app.job_kinds as k where k.kind = job_kind_with.kind;
  if not found and changes -> 'description' = 'null' then
    raise exception using
      errcode = 'JB102',
      message = 'job_kind_unknown',
      detail  = pg_catalog.jsonb_build_object('kind', pg_catalog.left(kind, 63)),
      hint    =
        'select * from app.job_kinds lists the kinds that there are; with a description, a new one is made.';
  elsif not found then
    v_kind := pg_catalog.jsonb_populate_record(null::app.job_kinds, pg_catalog.jsonb_build_object(
      'kind', kind, 'timeout_seconds', 300, 'max_retries', 3, 'backoff_base_ms', 2000,
      'backoff_cap_ms', 3600000, 'non_retryable_codes', '{}'::text[], 'max_waiting', 100000,
      'rate_burst', 1, 'tenant_enqueues', false, 'input_schema', '{"type": "object"}'::jsonb));
  end if;

  v_kind := pg_catalog.jsonb_populate_record(v_kind, (
    select coalesce(pg_catalog.jsonb_object_agg(c.key, case
             when c.key in ('max_running', 'rate_per_minute') and c.value = '0' then 'null'
             else c.value end), '{}')
    from pg_catalog.jsonb_each(changes) as c
    where c.value <> 'null'));
  v_fault := app_private.job_kind_fault(v_kind);
  if v_fault is not null then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_fault),
      hint    =
        'The constraints of app.job_kinds say what is sane; a schema says what app_private.json_fault knows.';
  end if;
  return v_kind;
end
$$;

comment on function app_private.job_kind_with is
  'A kind as it would be with these settings: what is null stays, 0 takes max_running and rate_per_minute away; what is not there '
  'begins with the defaults, if it has a description. Raises JB102, OP102.';

grant execute on function app_private.job_kind_with to holdfast_system;
