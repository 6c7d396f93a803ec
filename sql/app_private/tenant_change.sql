create or replace function app_private.tenant_change(before app.tenants, after app.tenants, at timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
begin
  update app.tenants as t
  set plan = (after).plan,
      pinned_tier = (after).pinned_tier,
      tier = (after).tier,
      time_zone = (after).time_zone,
      anchor_day = (after).anchor_day,
      presumed_policy = (after).presumed_policy,
      presumed_after = (after).presumed_after,
      version = t.version + 1,
      updated_at = at
  where t.tenant_id = (after).tenant_id;

  if (after).time_zone <> (before).time_zone then
    update app.tenant_schedules as s
    set next_run_at = app_private.own_turn_next(after, null, s.daily_at, s.last_slot, at)
    where s.tenant_id = (after).tenant_id and s.daily_at is not null;
  end if;
  if (after).tier <> (before).tier then
    perform app_private.turns_settle(array[(after).tenant_id]);
  end if;
end
$$;

comment on function app_private.tenant_change is
  'Writes what a person changes of a tenant, and settles its turns. Under app_private.shards_hold.';

grant execute on function app_private.tenant_change to holdfast_system;
