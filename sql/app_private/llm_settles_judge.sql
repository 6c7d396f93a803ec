create or replace function app_private.llm_settles_judge(
  tenant_id uuid, settles app_private.llm_settle[], held app.llm_reservations[])
returns app_private.llm_settle[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_settles app_private.llm_settle[] := array[]::app_private.llm_settle[];
  v_settle  app_private.llm_settle;
  v_hold    app.llm_reservations;
  v_cost    numeric;
  v_ids     uuid[];                 -- the prices that these are the rates of
  v_prompt  bigint;
  v_rates   app_private.llm_rates;
  v_tiered  boolean;
  v_next    integer := 1;
begin
  -- Both come in the order of the ids.
  foreach v_settle in array settles loop
    v_hold := null;
    if held[v_next].id = v_settle.reservation_id then
      v_hold := held[v_next];
      v_next := v_next + 1;
    end if;
    if v_settle.refusal is not null then
      null;
    elsif v_hold.id is null or (v_settle.of_client and v_hold.run_id is not null) then
      v_settle.refusal := 'reservation_not_found';
    elsif v_hold.status = 'RELEASED' or (v_hold.closed_at is not null and not v_settle.final) then
      v_settle.refusal := 'reservation_closed';
    elsif v_hold.closed_at is not null and not app_private.llm_adjustable(v_hold, v_settle) then
      v_settle := app_private.llm_settle_again(v_hold, v_settle);
    else
      if v_hold.price_ids is distinct from v_ids or (v_tiered and (v_settle.used).input <> v_prompt) then
        v_ids := v_hold.price_ids;
        v_prompt := (v_settle.used).input;
        v_rates := app_private.llm_rates_for(tenant_id, v_ids, v_prompt);
        v_tiered := app_private.llm_tiered(v_ids);
      end if;
      v_cost := app_private.llm_cost(v_settle.used, v_rates);
      -- What was counted before the truth came is not given back by it.
      if v_hold.closed_at is not null or not v_settle.final then
        v_cost := greatest(v_cost, v_hold.settled_nanousd);
      end if;
      v_settle.writes := true;
      v_settle.run_id := v_hold.run_id;
      v_settle.provider := v_hold.provider;
      v_settle.model := v_hold.model;
      v_settle.hold_nanousd := v_hold.estimated_cost_nanousd;
      v_settle.closed := v_hold.closed_at is not null;
      v_settle.before_nanousd := v_hold.settled_nanousd;
      v_settle.status := case when v_settle.final and v_hold.status <> 'WRITTEN_OFF' then 'APPLIED'
                              else v_hold.status end;
      v_settle.cost_nanousd := v_cost;
      v_settle.over_hold_nanousd := greatest(0, v_cost - v_hold.estimated_cost_nanousd);
    end if;
    if v_settle.refusal = 'reservation_closed' then
      v_settle.detail := pg_catalog.jsonb_build_object('reservation_id', v_hold.id, 'status', v_hold.status);
    end if;
    v_settles := v_settles || v_settle;
  end loop;
  return v_settles;
end
$$;

comment on function app_private.llm_settles_judge is
  'What becomes of each of these holds: APPLIED at its pinned prices by a final settle, also late; what comes after it was '
  'written off, or after it was charged by an estimate, is an adjustment; a stream settles in parts. The same settle again '
  'answers the same, another one is refused.';
