create or replace function app_private.job_kind_check(kind text, input jsonb, by_tenant boolean) returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  v_kind  app.job_kinds;
  v_fault text;
begin
  select k.* into v_kind from app.job_kinds as k where k.kind = job_kind_check.kind;
  if not found then
    raise exception using
      errcode = 'JB102',
      message = 'job_kind_unknown',
      detail  = pg_catalog.jsonb_build_object('kind', pg_catalog.left(kind, 63)),
      hint    = 'select * from app.job_kinds lists the kinds of job that there are.';
  elsif by_tenant and not v_kind.tenant_enqueues then
    raise exception using
      errcode = 'JB105',
      message = 'job_kind_not_enqueueable',
      detail  = pg_catalog.jsonb_build_object('kind', kind),
      hint    = 'Only the scheduler and people in psql make this kind; see app.job_kinds.tenant_enqueues.';
  end if;

  v_fault := app_private.json_fault(v_kind.input_schema, input);
  if v_fault is not null then
    raise exception using
      errcode = 'JB104',
      message = 'job_input_invalid',
      detail  = pg_catalog.jsonb_build_object(
        'kind', kind,
        'path', (pg_catalog.regexp_match(v_fault, '^(\$(?:\.\w+|\[\d+\]|\["(?:[^"\\]|\\.)*"\])*): '))[1],
        'fault', v_fault),
      hint    = 'The input is described by app.job_kinds.input_schema, a JSON Schema.';
  end if;
end
$$;

comment on function app_private.job_kind_check is
  'Raises unless a run of that kind may be asked for with that input: JB102 for a kind that is not there, JB105 where only the '
  'scheduler and people make it, JB104 for an input that breaks its schema.';

grant execute on function app_private.job_kind_check to holdfast_system;
