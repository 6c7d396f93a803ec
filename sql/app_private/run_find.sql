create or replace function app_private.run_find(run_id uuid) returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  v_tenant_id uuid;
begin
  select r.tenant_id into v_tenant_id from app.job_runs as r where r.id = run_find.run_id;
  if not found then
    perform app_private.job_run_missing();
  end if;
  return v_tenant_id;
end
$$;

comment on function app_private.run_find is
  'Whose run that is, for functions of ops, which see them all; its id says in which month to look. Raises JB101.';

grant execute on function app_private.run_find to holdfast_system;
