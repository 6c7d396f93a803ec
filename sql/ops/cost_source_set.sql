set local role holdfast_system;

create or replace function ops.cost_source_set(
  tenant text, source text, path text, reason text, dry_run boolean default false,
  expected_version bigint default null)
returns table (tenant_name text, source_name text, path_before text, path_after text, version bigint)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_wrong     constant text := case
    when coalesce(pg_catalog.length(source), 0) not between 1 and 100
      or source ~ '[[:cntrl:]]' then 'source'
    when coalesce(path, '') !~ '^/.' or pg_catalog.length(path) > 1000
      or path ~ '[[:cntrl:]]' then 'path' end;
  v_before    app.cost_sources;
  v_version   bigint;
begin
  perform app_private.reason_check(reason);
  if v_wrong is not null then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    =
        'A source has 1 to 100 printable characters; its path begins with / and every worker sees it.';
  end if;

  select s.* into v_before
  from app.cost_sources as s
  where s.tenant_id = v_tenant_id and s.source = cost_source_set.source
  for no key update;
  if expected_version is not null and v_before.version is distinct from expected_version then
    raise exception using
      errcode = 'VR201',
      message = 'optimistic_lock_failed',
      detail  = pg_catalog.jsonb_build_object('expected', expected_version, 'found', v_before.version),
      hint    = 'Someone changed it since you read it. Read ops.cost_sources again.';
  end if;

  v_version := coalesce(v_before.version, 0) + 1;
  if not dry_run then
    insert into app.cost_sources as s (tenant_id, source, path)
    values (v_tenant_id, cost_source_set.source, cost_source_set.path)
    on conflict on constraint cost_sources_pkey
      do update set path = excluded.path, version = s.version + 1
    returning s.version into v_version;

    insert into ops.audit_log (action, subject, reason, before, after)
    values ('cost_source_set', tenant, reason,
            case when v_before.source is not null then pg_catalog.to_jsonb(v_before) end,
            pg_catalog.jsonb_build_object('source', source, 'path', path, 'version', v_version));
  end if;

  return query select tenant, source, v_before.path, cost_source_set.path, v_version;
end
$$;

comment on function ops.cost_source_set is
  'Says where the workers find the cost file of a source of a tenant, among all tenants; audited. It is read at the tenant''s '
  'next turn, and again when it has changed. dry_run shows the change without making it. Raises TN101, VR201, OP101, OP102.';

grant execute on function ops.cost_source_set to holdfast_ops;

set local role holdfast_owner;
