create or replace function app_private.job_request_check(
  kind text, input jsonb, run_at timestamptz, priority integer) returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  v_wrong text := case
    when kind is null then 'kind'
    when input is null or pg_catalog.octet_length(input::text) > 65536 then 'input'
    when run_at is null or run_at > pg_catalog.now() + interval '366 days' then 'run_at'
    when priority is null or priority not between -100 and 100 then 'priority' end;
begin
  if v_wrong is not null then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    =
        'A run has a kind, at most 64 kB of input, a moment at most 366 days ahead, and a priority of -100 to 100.';
  end if;
end
$$;

comment on function app_private.job_request_check is
  'Raises OP102 unless a run may be asked for at that moment, with that priority and that much input.';

grant execute on function app_private.job_request_check to holdfast_system;
