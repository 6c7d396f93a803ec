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
    perform app_private.llm_written_off(v_held, llm_write_off.reason);
    insert into ops.audit_log (action, subject, reason, before, after)
    select 'llm_write_off', t.name, llm_write_off.reason, pg_catalog.to_jsonb(v_held),
           pg_catalog.jsonb_build_object('status', 'WRITTEN_OFF')
    from app.tenants as t where t.tenant_id = v_held.tenant_id;
  end if;

  return query
  select t.name, v_held.model, app_private.usd(app_private.llm_rest(v_held, 'PRESUMED')),
         case when dry_run then v_held.status else 'WRITTEN_OFF' end
  from app.tenants as t where t.tenant_id = v_held.tenant_id;
end
$$;

comment on function ops.llm_write_off is
  'Gives back what a PRESUMED hold counts, once the provider''s bill shows that the call was not charged, among all tenants; '
  'audited. dry_run shows it without doing it. Raises LB104, LB201 for a hold that is not PRESUMED, OP101.';

grant execute on function ops.llm_write_off to holdfast_ops;

set local role holdfast_owner;
