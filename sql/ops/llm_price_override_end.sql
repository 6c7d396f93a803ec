set local role holdfast_system;

create or replace function ops.llm_price_override_end(
  tenant text, provider text, reason text, model text default '', unit text default '',
  dry_run boolean default false, expected_id uuid default null)
returns table (override_id uuid, before_usd_per_million numeric, before_factor numeric, since timestamptz)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_now       timestamptz;
  v_before    app.llm_price_overrides;
begin
  perform app_private.reason_check(reason);
  if not dry_run then
    lock table app.llm_price_overrides in share row exclusive mode;
  end if;
  v_now := pg_catalog.clock_timestamp();
  v_before := app_private.llm_price_override_standing(v_tenant_id, provider, model, unit, v_now, expected_id);
  if v_before.id is null then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('provider', provider, 'model', model, 'unit', unit),
      hint    = 'The tenant has no such override; select * from ops.llm_price_overrides lists them.';
  end if;

  if not dry_run then
    update app.llm_price_overrides as o
    set valid = tstzrange(lower(o.valid), v_now)
    where o.tenant_id = v_tenant_id and o.id = v_before.id;
    insert into ops.audit_log (action, subject, reason, before)
    values ('llm_price_override_end', tenant, reason, pg_catalog.to_jsonb(v_before));
  end if;

  return query select v_before.id, v_before.usd_per_million, v_before.factor, lower(v_before.valid);
end
$$;

comment on function ops.llm_price_override_end is
  'Has a tenant, among all tenants, pay what app.llm_prices says again, from now on; audited. Holds keep what they were made '
  'with. expected_id is the override that you saw. dry_run shows which would end. Raises TN101, VR201, OP101, OP102.';

grant execute on function ops.llm_price_override_end to holdfast_ops;

set local role holdfast_owner;
