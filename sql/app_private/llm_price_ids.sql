create or replace function app_private.llm_price_ids(
  tenant_id uuid, provider text, model text, service_tier text, at timestamptz)
returns table (price_ids uuid[], tiered boolean)
language plpgsql
stable
set search_path = ''
as $$
begin
  select array_agg(p.id order by p.id), bool_or(p.prompt_tokens <> '[0,)'::int8range)
  into price_ids, tiered
  from app.llm_prices as p
  where p.provider = llm_price_ids.provider and p.model = llm_price_ids.model
    and p.service_tier = llm_price_ids.service_tier and p.valid @> at and p.corrected_at = 'infinity';
  if price_ids is not null then
    price_ids := price_ids || array(
      select o.id
      from app.llm_price_overrides as o
      where o.tenant_id = llm_price_ids.tenant_id and o.provider = llm_price_ids.provider
        and o.model in ('', llm_price_ids.model) and o.valid @> at);
  end if;
  return next;
end
$$;

comment on function app_private.llm_price_ids is
  'The versions of prices, and the overrides of a tenant, that apply to a model at a moment; null where none is known. '
  'tiered: they depend on how long the prompt is.';
