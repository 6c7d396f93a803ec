create or replace function app_private.llm_asks_place(
  asks app_private.llm_ask[], periods app_private.llm_period[])
returns app_private.llm_ask[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_asks   app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask    app_private.llm_ask;
  v_common constant integer[] := array(select p.place from unnest(periods) as p where p.scope = 'tenant');
  v_scoped constant boolean := pg_catalog.cardinality(v_common) < pg_catalog.cardinality(periods);
begin
  foreach v_ask in array asks loop
    if v_ask.refusal is null then
      v_ask.periods := v_common;
      if v_scoped then
        v_ask.periods := array(
          select p.place
          from unnest(periods) as p
          where (p.scope = 'api_key' and p.scope_id = v_ask.api_key)
            or (p.scope = 'user' and p.scope_id = v_ask.user_id)
            or (p.scope = 'model' and p.scope_id = v_ask.provider || '/' || v_ask.model)
            or (p.scope = 'tag' and p.scope_id = any (v_ask.tags))) || v_common;
      end if;
      if v_common = '{}' then
        v_ask.refusal := 'budget_exceeded';
        v_ask.detail := pg_catalog.jsonb_build_object('reason', 'no_budget',
          'needed_nanousd', v_ask.needed_nanousd::text, 'max_affordable_output_tokens', 0);
      end if;
    end if;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
end
$$;

comment on function app_private.llm_asks_place is
  'Which of these budgets each request is held in: those of its tenant, and of its key, user, model and tags. A tenant '
  'without a budget for all of it is refused, whatever other budgets it has.';
