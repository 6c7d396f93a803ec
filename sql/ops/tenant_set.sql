set local role holdfast_system;

create or replace function ops.tenant_set(
  tenant text, reason text, plan text default null, tier text default null, unpin boolean default false,
  time_zone text default null, anchor_day integer default null, presumed_policy text default null,
  presumed_after interval default null, dry_run boolean default false)
returns table (setting text, before text, after text, note text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_now       constant timestamptz := pg_catalog.clock_timestamp();
  v_before    app.tenants;
  v_after     app.tenants;
begin
  perform app_private.reason_check(reason);
  if tier is not null and unpin then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('arguments', array['tier', 'unpin']),
      hint    =
        'A tier pins the tenant to a cohort, unpin lets it follow from the plan again: name one of them.';
  end if;

  perform app_private.shards_hold(v_tenant_id);
  select t.* into v_before from app.tenants as t where t.tenant_id = v_tenant_id for no key update;
  v_after := v_before;
  v_after.plan := coalesce(tenant_set.plan, v_before.plan);
  v_after.pinned_tier := case when not unpin then coalesce(tenant_set.tier, v_before.pinned_tier) end;
  v_after.time_zone := coalesce(tenant_set.time_zone, v_before.time_zone);
  perform app_private.tenant_check(
    v_after.name, v_after.plan, v_after.pinned_tier, v_after.time_zone, v_after.required_tags);
  v_after.presumed_policy := coalesce(tenant_set.presumed_policy, v_before.presumed_policy);
  v_after.presumed_after := coalesce(tenant_set.presumed_after,
    case when v_after.presumed_policy = 'release_after' then v_before.presumed_after end);
  perform app_private.presumed_check(
    coalesce(tenant_set.anchor_day, v_before.anchor_day), v_after.presumed_policy, v_after.presumed_after);
  v_after.anchor_day := coalesce(tenant_set.anchor_day, v_before.anchor_day);
  v_after.tier := (select app_private.tier_of(p, v_before.last_active_at, v_after.pinned_tier, v_now)
                   from app.plans as p where p.plan = v_after.plan);

  if dry_run is not true and pg_catalog.to_jsonb(v_after) <> pg_catalog.to_jsonb(v_before) then
    perform app_private.tenant_change(v_before, v_after, v_now);
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('tenant_set', tenant, reason, pg_catalog.to_jsonb(v_before), pg_catalog.to_jsonb(v_after));
  end if;

  return query
  select a.key, b.value, a.value, case when a.key in ('anchor_day', 'time_zone')
    then 'its budgets may begin another period now, in which nothing is spent yet' end
  from pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(v_after)) as a
  join pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(v_before)) as b on b.key = a.key
  where a.value is distinct from b.value
  order by a.key;
end
$$;

comment on function ops.tenant_set is
  'Changes what is given of a tenant, among all tenants: its plan, the cohort that it is pinned to (tier; unpin lets it follow '
  'from the plan again), its time zone, the anchor_day on which months of its budgets begin, and what becomes of PRESUMED holds '
  '(presumed_policy hold, release_after with presumed_after, or charge_worst_case). Audited; answers what changes. Its turns go '
  'with it: none is taken twice or forgotten, and a daily one moves with the time zone. Another zone or anchor day begins '
  'another period at once, in which nothing is spent yet. A policy is good for holds that are PRESUMED already, too. '
  'dry_run shows it without doing it. Raises TN101, TN103, OP101, OP102.';

grant execute on function ops.tenant_set to holdfast_ops;

set local role holdfast_owner;
