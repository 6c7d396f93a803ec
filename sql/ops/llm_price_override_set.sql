set local role holdfast_system;

create or replace function ops.llm_price_override_set(
  tenant text, provider text, reason text, model text default '', unit text default '',
  usd_per_million numeric default null, factor numeric default null, dry_run boolean default false,
  expected_id uuid default null)
returns table (
  override_id uuid, before_usd_per_million numeric, before_factor numeric, after_usd_per_million numeric,
  after_factor numeric)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_now       timestamptz;
  v_before    app.llm_price_overrides;
  v_after     app.llm_price_overrides;
begin
  perform app_private.reason_check(reason);
  if not coalesce((usd_per_million is null) <> (factor is null)
    and (factor is null or factor between 0 and 10)
    and (usd_per_million is null or model <> '' and unit <> '' and usd_per_million between 0 and
      case when unit in ('request', 'image', 'tool_call') then 1000000000 else 100000 end)
    and exists (
      select from app.llm_prices as p
      where p.provider = llm_price_override_set.provider and llm_price_override_set.model in ('', p.model)
        and llm_price_override_set.unit in ('', p.unit) and p.valid @> pg_catalog.clock_timestamp()
        and p.corrected_at = 'infinity'), false)
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      hint    =
        'Give a factor of 0 to 10, or usd_per_million, as much as a price may be, with a model and a unit; app.llm_prices must have a price '
        'that it applies to, for an override changes a price and makes none.';
  end if;
  if not dry_run then
    lock table app.llm_price_overrides in share row exclusive mode;
  end if;
  v_now := pg_catalog.clock_timestamp();
  v_before := app_private.llm_price_override_standing(v_tenant_id, provider, model, unit, v_now, expected_id);

  if not dry_run
    and (v_before.usd_per_million, v_before.factor) is distinct from (usd_per_million, factor)
  then
    update app.llm_price_overrides as o
    set valid = tstzrange(lower(o.valid), v_now)
    where o.tenant_id = v_tenant_id and o.id = v_before.id;
    insert into app.llm_price_overrides as o (
      tenant_id, provider, model, unit, usd_per_million, factor, valid, created_at)
    select v_tenant_id, llm_price_override_set.provider, llm_price_override_set.model,
           llm_price_override_set.unit, llm_price_override_set.usd_per_million, llm_price_override_set.factor,
           tstzrange(v_now, null), v_now
    returning o.* into v_after;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('llm_price_override_set', tenant, reason,
            case when v_before.id is not null then pg_catalog.to_jsonb(v_before) end,
            pg_catalog.to_jsonb(v_after));
  end if;

  return query
  select coalesce(v_after.id, v_before.id), v_before.usd_per_million, v_before.factor, usd_per_million,
         factor;
end
$$;

comment on function ops.llm_price_override_set is
  'Has a tenant pay something else than app.llm_prices from now on, among all tenants: a price of its own for one unit of a '
  'model, or a factor (0.9 is a tenth off, 0 is free) for a unit, a model or all of a provider. Of those that apply to a unit '
  'the one that names the model goes first, then the one that names the unit. Audited; holds keep what they were made '
  'with. expected_id is the override that you saw. dry_run shows the change without making it. Raises TN101, VR201, OP101, '
  'OP102.';

grant execute on function ops.llm_price_override_set to holdfast_ops;

set local role holdfast_owner;
