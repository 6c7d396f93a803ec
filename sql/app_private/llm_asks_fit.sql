create or replace function app_private.llm_asks_fit(
  asks app_private.llm_ask[], periods app_private.llm_period[], all_come_back boolean)
returns app_private.llm_ask[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_asks  app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask   app_private.llm_ask;
  v_left  numeric[] := array(
    select case p.limit_nanousd when 0 then -1 else coalesce(p.limit_nanousd, 'infinity'::numeric) end
      - p.spent_nanousd - p.presumed_nanousd - case when all_come_back then 0 else p.reserved_nanousd end
    from unnest(periods) as p order by p.place);
  v_least numeric;
  v_place integer;
begin
  foreach v_ask in array asks loop
    if v_ask.refusal is null then
      v_least := 'infinity';
      foreach v_place in array v_ask.periods loop
        v_least := least(v_least, v_left[v_place]);
      end loop;

      if v_least < v_ask.needed_nanousd and v_ask.min_output_tokens is not null and v_ask.output_rate > 0 then
        v_ask.max_output_tokens := greatest(v_ask.min_output_tokens, least(v_ask.max_output_tokens,
          pg_catalog.floor((v_least - v_ask.fixed_nanousd) / (1000 * v_ask.output_rate))));
        v_ask.needed_nanousd := pg_catalog.ceil(
          v_ask.fixed_nanousd + 1000 * v_ask.max_output_tokens * v_ask.output_rate);
      end if;

      if v_least < v_ask.needed_nanousd or v_least < 0 then
        v_ask.refusal := 'budget_exceeded';
        v_ask.detail := app_private.llm_refusal(v_ask, periods, v_least);
      elsif not all_come_back then
        foreach v_place in array v_ask.periods loop
          v_left[v_place] := v_left[v_place] - v_ask.needed_nanousd;
        end loop;
      end if;
    end if;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
end
$$;

comment on function app_private.llm_asks_fit is
  'Which of these requests fit all their budgets, one after the other: a later, smaller one may fit where an earlier did not. '
  'One that allows it is clamped to the output that fits. all_come_back: refuses only what would not fit if every '
  'hold that is open were released, and keeps nothing for one from the others.';
