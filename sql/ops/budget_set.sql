set local role holdfast_system;

create or replace function ops.budget_set(
  tenant text, limit_usd numeric, reason text, period text default 'month', dry_run boolean default false,
  expected_version bigint default null)
returns table (tenant_name text, budget_period text, before_usd numeric, after_usd numeric, version bigint)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_limit     constant bigint := app_private.nanousd(limit_usd);
  v_before    app.llm_budgets;
  v_version   bigint;
begin
  perform app_private.reason_check(reason);
  if period is null or period not in ('day', 'week', 'month', 'total') then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('period', period),
      hint    = 'A period is day, week, month or total.';
  end if;

  select b.* into v_before
  from app.llm_budgets as b
  where b.tenant_id = v_tenant_id and b.scope = 'tenant' and b.period = budget_set.period
  for no key update;
  if expected_version is not null and v_before.version is distinct from expected_version then
    raise exception using
      errcode = 'VR201',
      message = 'optimistic_lock_failed',
      detail  = pg_catalog.jsonb_build_object('expected', expected_version, 'found', v_before.version),
      hint    = 'Someone changed it since you read it. Read ops.budgets again.';
  end if;

  v_version := coalesce(v_before.version, 0) + 1;
  if not dry_run then
    insert into app.llm_budgets as b (tenant_id, period, limit_nanousd)
    values (v_tenant_id, budget_set.period, v_limit)
    on conflict on constraint llm_budgets_once
      do update set limit_nanousd = excluded.limit_nanousd, version = b.version + 1, updated_at = now()
    returning b.version into v_version;

    insert into ops.audit_log (action, subject, reason, before, after)
    values ('budget_set', tenant, reason,
            case when v_before.id is not null then pg_catalog.to_jsonb(v_before) end,
            pg_catalog.jsonb_build_object('limit_usd', limit_usd, 'period', period, 'version', v_version));
  end if;

  return query
  select tenant, period, app_private.usd(v_before.limit_nanousd), app_private.usd(v_limit), v_version;
end
$$;

comment on function ops.budget_set is
  'Sets what a tenant may spend on LLM calls per period, in US dollars, among all tenants; audited. A lower limit only '
  'stops new calls. dry_run shows the change without making it. Raises TN101, VR201, OP101, OP102.';

grant execute on function ops.budget_set to holdfast_ops;

set local role holdfast_owner;
