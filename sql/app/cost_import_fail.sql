create or replace function app.cost_import_fail(tenant_id uuid, ticket text, import_id uuid, error jsonb)
returns void
language plpgsql
security definer  -- the shell may not write imports
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  update app.cost_imports as i
  set status = 'FAILED', error = coalesce(cost_import_fail.error, '{}'), finished_at = now()
  where i.tenant_id = cost_import_fail.tenant_id
    and i.id = import_id
    and i.status in ('LOADING', 'LOADED');

  if found then
    perform app_private.event_add(tenant_id, 'import.failed', import_id, coalesce(error, '{}'));
  else
    perform app_private.cost_import_open(tenant_id, import_id, 'LOADING');
  end if;
end
$$;

comment on function app.cost_import_fail is
  'Ends an import that cannot be published; its lines stay unseen and are swept. Raises IM101, IM201.';

grant execute on function app.cost_import_fail to holdfast_service, holdfast_worker;
