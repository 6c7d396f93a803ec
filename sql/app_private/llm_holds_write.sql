create or replace function app_private.llm_holds_write(
  tenant_id uuid, asks app_private.llm_ask[], periods app_private.llm_period[], at timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into app.llm_reservations (tenant_id, id, provider, model, service_tier, run_id, attempt,
    input_tokens_bound, max_output_tokens, images, tool_calls, api_key, user_id, tags, estimated_cost_nanousd,
    price_ids, created_at, expires_at)
  select llm_holds_write.tenant_id, a.id, a.provider, a.model, a.service_tier, a.run_id, a.attempt,
         a.input_tokens_bound, a.max_output_tokens, a.images, a.tool_calls, a.api_key, a.user_id, a.tags,
         a.needed_nanousd, a.price_ids, at, at + a.ttl
  from unnest(asks) as a
  where a.refusal is null;

  with held as (
    insert into app.llm_reservation_budgets (tenant_id, reservation_id, budget_id, period_start)
    select llm_holds_write.tenant_id, a.id, p.budget_id, p.period_start
    from unnest(asks) as a
    cross join unnest(a.periods) as h (place)
    join unnest(llm_holds_write.periods) as p on p.place = h.place
    where a.refusal is null
  )
  update app.llm_budget_periods as p
  set reserved_nanousd = p.reserved_nanousd + s.needed,
      admitted_limit_nanousd = greatest(p.admitted_limit_nanousd, coalesce(q.limit_nanousd,
        p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd + s.needed))
  from (
    select h.place, sum(a.needed_nanousd) as needed
    from unnest(asks) as a
    cross join unnest(a.periods) as h (place)
    where a.refusal is null
    group by h.place) as s
  join unnest(llm_holds_write.periods) as q on q.place = s.place
  where p.tenant_id = llm_holds_write.tenant_id and p.budget_id = q.budget_id
    and p.period_start = q.period_start;

  -- Who is refused has used no key: the same request may come again.
  if exists (select from unnest(asks) as a where a.refusal = 'budget_exceeded') then
    delete from app.llm_reservation_keys as k
    using unnest(asks) as a
    where a.refusal = 'budget_exceeded'
      and k.tenant_id = llm_holds_write.tenant_id and k.idempotency_key = a.idempotency_key
      and k.reservation_id = a.id;
  end if;
end
$$;

comment on function app_private.llm_holds_write is
  'Writes the holds of the requests that were admitted, counts them in their budgets, and gives back the keys of the '
  'others. Under the locks of llm_periods_take.';
