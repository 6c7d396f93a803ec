create or replace function app_private.llm_price_override_standing(
  tenant_id uuid, provider text, model text, unit text, at timestamptz, expected_id uuid)
returns app.llm_price_overrides
language plpgsql
stable
set search_path = ''
as $$
declare
  v_standing app.llm_price_overrides;
begin
  select o.* into v_standing
  from app.llm_price_overrides as o
  where o.tenant_id = llm_price_override_standing.tenant_id
    and o.provider = llm_price_override_standing.provider and o.model = llm_price_override_standing.model
    and o.unit = llm_price_override_standing.unit and o.valid @> at;
  if expected_id is not null and v_standing.id is distinct from expected_id then
    raise exception using
      errcode = 'VR201',
      message = 'optimistic_lock_failed',
      detail  = pg_catalog.jsonb_build_object('expected', expected_id, 'found', v_standing.id),
      hint    = 'Someone changed it since you read it. Read ops.llm_price_overrides again.';
  end if;
  return v_standing;
end
$$;

comment on function app_private.llm_price_override_standing is
  'The override of exactly that provider, model and unit that applies to a tenant at a moment; null where there is none. '
  'Raises VR201 where it is not the expected one.';

grant execute on function app_private.llm_price_override_standing to holdfast_system;
