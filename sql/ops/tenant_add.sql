set local role holdfast_system;

create or replace function ops.tenant_add(
  name text, reason text, limit_usd numeric, tier text default null, time_zone text default 'UTC',
  required_tags text[] default null, sample boolean default false, plan text default 'growth')
returns table (tenant_id uuid, tenant text, tier_now text, monthly_limit_usd numeric)
language plpgsql
security definer  -- sees all tenants: it makes one
set search_path = ''
set row_security = on
as $$
declare
  v_tenant app.tenants;
begin
  perform app_private.reason_check(reason);
  perform app_private.tenant_check(name, plan, tier, time_zone, required_tags);

  insert into app.tenants as t (name, plan, pinned_tier, tier, time_zone, required_tags, sample)
  select tenant_add.name, p.plan, tenant_add.tier,
         app_private.tier_of(p, pg_catalog.now(), tenant_add.tier, pg_catalog.now()), tenant_add.time_zone,
         coalesce(tenant_add.required_tags, '{environment,owner,cost_center}'), tenant_add.sample
  from app.plans as p
  where p.plan = tenant_add.plan
  on conflict on constraint tenants_name_once do nothing
  returning * into v_tenant;
  if not found then
    raise exception using
      errcode = 'TN102',
      message = 'tenant_name_taken',
      detail  = pg_catalog.jsonb_build_object('name', name),
      hint    = 'select * from ops.tenants lists the names that are taken.';
  end if;

  insert into app.llm_budgets (tenant_id, limit_nanousd)
  values (v_tenant.tenant_id, app_private.nanousd(tenant_add.limit_usd));

  insert into ops.audit_log (action, subject, reason, after)
  values ('tenant_add', name, reason,
          pg_catalog.to_jsonb(v_tenant) || pg_catalog.jsonb_build_object('limit_usd', limit_usd));

  return query select v_tenant.tenant_id, v_tenant.name, v_tenant.tier, tenant_add.limit_usd;
end
$$;

comment on function ops.tenant_add is
  'Makes a tenant with a monthly budget in US dollars, among all tenants; audited. Its cohort follows from its plan, unless tier '
  'pins it to one; its first turn is the next of its cohort. Raises TN102, TN103, OP101, OP102.';

grant execute on function ops.tenant_add to holdfast_ops;

set local role holdfast_owner;
