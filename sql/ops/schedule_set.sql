set local role holdfast_system;

create or replace function ops.schedule_set(
  tenant text, reason text, every interval default null, daily_at time default null,
  dry_run boolean default false)
returns table (tenant_name text, schedule_before text, schedule_after text, next_turn timestamptz)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_tenant    app.tenants;
  v_before    app.tenant_schedules;
  v_after     app.tenant_schedules;
begin
  perform app_private.reason_check(reason);
  perform app_private.schedule_check(every, daily_at);

  -- No tick makes the tenant's turn while it goes from one schedule to another.
  perform app_private.shards_hold(v_tenant_id);
  select t.* into v_tenant from app.tenants as t where t.tenant_id = v_tenant_id;
  select s.* into v_before
  from app.tenant_schedules as s where s.tenant_id = v_tenant_id for no key update;

  v_after := row(v_tenant_id, every, daily_at, null, null, coalesce(v_before.missed_slots, 0));
  if v_before.daily_at is not null and daily_at is not null then
    v_after.last_slot := v_before.last_slot;
  end if;
  if (v_before.every, v_before.daily_at) is not distinct from (every, daily_at) then
    v_after.next_run_at := v_before.next_run_at;
  elsif every is not null or daily_at is not null then
    v_after.next_run_at := app_private.own_turn_next(
      v_tenant, every, daily_at, v_after.last_slot, pg_catalog.clock_timestamp());
  end if;

  if dry_run is not true and (v_before.every, v_before.daily_at) is distinct from (every, daily_at) then
    delete from app.tenant_schedules as s where s.tenant_id = v_tenant_id;
    if v_after.next_run_at is not null then
      insert into app.tenant_schedules select v_after.*;
    else
      perform app_private.turns_settle(array[v_tenant_id]);
    end if;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('schedule_set', tenant, reason,
            case when v_before.tenant_id is not null then pg_catalog.to_jsonb(v_before) end,
            case when v_after.next_run_at is not null then pg_catalog.to_jsonb(v_after) end);
  end if;

  return query
  select tenant, app_private.schedule_text(v_before.every, v_before.daily_at),
         app_private.schedule_text(schedule_set.every, schedule_set.daily_at),
         coalesce(v_after.next_run_at, s.next_run_at)
  from app.schedules as s where s.tier = v_tenant.tier and s.shard = v_tenant.shard;
end
$$;

comment on function ops.schedule_set is
  'Gives a tenant turns of its own instead of those of its cohort, among all tenants: every so often, or each day at a time in '
  'its time zone; neither: back to the cohort. Audited. Its last turn counts: the next one comes neither too soon nor too late. '
  'dry_run shows the change without making it. Raises TN101, OP101, OP102.';

grant execute on function ops.schedule_set to holdfast_ops;

set local role holdfast_owner;
