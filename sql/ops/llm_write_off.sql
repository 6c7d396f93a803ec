set local role holdfast_system;

create or replace function ops.llm_write_off(reservation_id uuid, reason text, dry_run boolean default false)
returns table (tenant text, model text, amount_usd numeric, status text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_held app.llm_reservations;
begin
  perform app_private.reason_check(reason);
  select r.* into v_held from app.llm_reservations as r where r.id = reservation_id for no key update;
  if not found then
    raise exception using
      errcode = 'LB104',
      message = 'reservation_not_found',
      hint    = 'select * from ops.llm_calls where status = ''PRESUMED'' lists what can be written off.';
  end if;

  if v_held.status <> 'PRESUMED' then
    perform app_private.llm_closed(v_held);
  end if;

  if not dry_run then
    update app.llm_reservations as r
    set status = 'WRITTEN_OFF',
        reason = pg_catalog.left(llm_write_off.reason, 200),
        closed_at = pg_catalog.clock_timestamp()
    where r.tenant_id = v_held.tenant_id and r.id = v_held.id;
    with held as (
      select p.tenant_id, p.budget_id, p.period_start
      from app.llm_reservation_budgets as h
      join app.llm_budget_periods as p
        on p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start
      where h.tenant_id = v_held.tenant_id and h.reservation_id = v_held.id
      order by p.budget_id
      for no key update of p
    )
    update app.llm_budget_periods as p
    set presumed_nanousd = p.presumed_nanousd - v_held.estimated_cost_nanousd
    from held as h
    where p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start;
    insert into ops.audit_log (action, subject, reason, before, after)
    select 'llm_write_off', t.name, llm_write_off.reason, pg_catalog.to_jsonb(v_held),
           pg_catalog.jsonb_build_object('status', 'WRITTEN_OFF')
    from app.tenants as t where t.tenant_id = v_held.tenant_id;
  end if;

  return query
  select t.name, v_held.model, app_private.usd(v_held.estimated_cost_nanousd),
         case when dry_run then v_held.status else 'WRITTEN_OFF' end
  from app.tenants as t where t.tenant_id = v_held.tenant_id;
end
$$;

comment on function ops.llm_write_off is
  'Gives back what a PRESUMED hold counts, once the provider''s bill shows that the call was not charged, among all tenants; '
  'audited. dry_run shows it without doing it. Raises LB104, LB201 for a hold that is not PRESUMED, OP101.';

grant execute on function ops.llm_write_off to holdfast_ops;

set local role holdfast_owner;
