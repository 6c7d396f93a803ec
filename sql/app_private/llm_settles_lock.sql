create or replace function app_private.llm_settles_lock(tenant_id uuid, settles app_private.llm_settle[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(select distinct s.reservation_id from unnest(settles) as s);
begin
  if pg_catalog.cardinality(v_ids) = pg_catalog.cardinality(settles) then return; end if;

  perform
  from app.llm_reservations as r
  where r.tenant_id = llm_settles_lock.tenant_id and r.id = any (v_ids)
  order by r.id
  for no key update;
  -- In the order of app_private.llm_asks_periods.
  perform
  from (
    select distinct h.budget_id, h.period_start
    from app.llm_reservation_budgets as h
    where h.tenant_id = llm_settles_lock.tenant_id and h.reservation_id = any (v_ids)) as h
  join app.llm_budgets as b on b.tenant_id = llm_settles_lock.tenant_id and b.id = h.budget_id
  join app.llm_budget_periods as p
    on p.tenant_id = llm_settles_lock.tenant_id and p.budget_id = h.budget_id
    and p.period_start = h.period_start
  order by b.scope = 'tenant', p.budget_id, p.period_start
  for no key update of p;
end
$$;

comment on function app_private.llm_settles_lock is
  'Locks the holds and the counters of a batch in which one hold comes twice, so that what is settled in several steps locks '
  'in one order. Nothing for other batches, which are settled in one step.';
