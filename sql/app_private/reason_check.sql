create or replace function app_private.reason_check(reason text) returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  if pg_catalog.length(pg_catalog.btrim(coalesce(reason, ''))) < 3 then
    raise exception using
      errcode = 'OP101',
      message = 'reason_required',
      hint    = 'Say why, for those who read ops.audit_log: reason => ''…''.';
  end if;
end
$$;

comment on function app_private.reason_check is 'Raises OP101 unless a person gave a reason of at least 3 characters.';

grant execute on function app_private.reason_check to holdfast_system;
