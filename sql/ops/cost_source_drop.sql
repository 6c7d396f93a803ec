set local role holdfast_system;

create or replace function ops.cost_source_drop(
  tenant text, source text, reason text, dry_run boolean default false)
returns table (tenant_name text, source_name text, path_before text, last_import_at timestamptz)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_before    app.cost_sources;
begin
  perform app_private.reason_check(reason);
  select s.* into v_before
  from app.cost_sources as s
  where s.tenant_id = v_tenant_id and s.source = cost_source_drop.source
  for update;
  if not found then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('source', source),
      hint    = 'The tenant has no such source; select * from ops.cost_sources lists them.';
  end if;

  if not dry_run then
    delete from app.cost_sources as s where s.tenant_id = v_tenant_id and s.source = cost_source_drop.source;

    insert into ops.audit_log (action, subject, reason, before)
    values ('cost_source_drop', tenant, reason, pg_catalog.to_jsonb(v_before));
  end if;

  return query select tenant, v_before.source, v_before.path, v_before.last_import_at;
end
$$;

comment on function ops.cost_source_drop is
  'Forgets a cost source of a tenant, among all tenants; audited. What was imported from it stays. dry_run shows what would '
  'go. Raises TN101, OP101, OP102.';

grant execute on function ops.cost_source_drop to holdfast_ops;

set local role holdfast_owner;
