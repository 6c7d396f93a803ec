set local role holdfast_system;

create or replace function ops.set_limit(
  tenant text, limit_usd numeric, reason text, period text default 'month', scope text default 'tenant',
  scope_id text default '', unlimited boolean default false, dry_run boolean default false,
  expected_version bigint default null)
returns table (
  tenant_name text, budget_scope text, budget_period text, before_usd numeric, after_usd numeric,
  is_unlimited boolean, version bigint)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_limit     bigint;
  v_before    app.llm_budgets;
  v_after     app.llm_budgets;
begin
  perform app_private.reason_check(reason);
  perform app_private.limit_check(limit_usd, unlimited, period, scope, scope_id);
  v_limit := case when not unlimited then app_private.nanousd(limit_usd) end;

  -- Made first, then locked: of two people who make the same budget, the second sees what the first has made.
  if expected_version is null and not dry_run then
    insert into app.llm_budgets as b (tenant_id, scope, scope_id, period, limit_nanousd, unlimited)
    values (v_tenant_id, set_limit.scope, set_limit.scope_id, set_limit.period, v_limit, set_limit.unlimited)
    on conflict on constraint llm_budgets_once do nothing
    returning b.* into v_after;
  end if;
  if v_after.id is null then
    select b.* into v_before
    from app.llm_budgets as b
    where b.tenant_id = v_tenant_id and b.scope = set_limit.scope and b.scope_id = set_limit.scope_id
      and b.unit = 'usd' and b.period = set_limit.period
    for no key update;
    if expected_version is not null and v_before.version is distinct from expected_version then
      raise exception using
        errcode = 'VR201',
        message = 'optimistic_lock_failed',
        detail  = pg_catalog.jsonb_build_object('expected', expected_version, 'found', v_before.version),
        hint    = 'Someone changed it since you read it. Read ops.budgets again.';
    end if;
  end if;
  if v_before.id is not null and not dry_run then
    update app.llm_budgets as b
    set limit_nanousd = v_limit, unlimited = set_limit.unlimited, version = b.version + 1, updated_at = now()
    where b.tenant_id = v_tenant_id and b.id = v_before.id
    returning b.* into v_after;
  end if;
  if v_after.id is not null then
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('set_limit', tenant, reason,
            case when v_before.id is not null then pg_catalog.to_jsonb(v_before) end,
            pg_catalog.to_jsonb(v_after) || pg_catalog.jsonb_build_object('limit_usd', limit_usd));
  end if;

  return query
  select tenant, concat_ws(' ', scope, nullif(scope_id, '')), period, app_private.usd(v_before.limit_nanousd),
         app_private.usd(v_limit), unlimited, coalesce(v_after.version, v_before.version + 1, 1);
end
$$;

comment on function ops.set_limit is
  'Sets, or makes, what may be spent on LLM calls per period, in US dollars, among all tenants: by the whole tenant, or by '
  'one api_key, user, model (provider/model) or tag of it; audited. A limit of 0 blocks every call; a lower one only stops '
  'new calls; unlimited => true, with limit_usd => null, counts and refuses nothing. Version 1 is a new budget; before_usd is '
  'also null where it was unlimited. dry_run shows the change without making it. Raises TN101, VR201, OP101, OP102.';

grant execute on function ops.set_limit to holdfast_ops;

set local role holdfast_owner;
