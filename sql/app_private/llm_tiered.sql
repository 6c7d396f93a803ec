create or replace function app_private.llm_tiered(price_ids uuid[]) returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return exists (
    select from app.llm_prices as p
    where p.id = any (price_ids) and p.prompt_tokens <> '[0,)'::int8range);
end
$$;

comment on function app_private.llm_tiered is 'Whether these prices depend on how long the prompt is.';
