set local role holdfast_system;

create or replace function ops.tier_set(
  tier text, reason text, every interval default null, weight numeric default null, missed text default null,
  missed_max integer default null, skip_after interval default null, overlap text default null,
  dry_run boolean default false)
returns table (setting text, before text, after text)
language plpgsql
security definer  -- cohorts are of all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_before app.tiers;
  v_after  app.tiers;
begin
  perform app_private.reason_check(reason);
  select c.* into v_before from app.tiers as c where c.tier = tier_set.tier for no key update;
  v_after := v_before;
  v_after.every := coalesce(tier_set.every, v_before.every);
  v_after.weight := coalesce(tier_set.weight, v_before.weight);
  v_after.missed := coalesce(tier_set.missed, v_before.missed);
  v_after.missed_max := coalesce(tier_set.missed_max, v_before.missed_max);
  -- It goes with skip: who turns to another policy need not take it away.
  v_after.skip_after := coalesce(
    tier_set.skip_after, case when v_after.missed = 'skip' then v_before.skip_after end);
  v_after.overlap := coalesce(tier_set.overlap, v_before.overlap);
  perform app_private.tier_check(v_after);

  if dry_run is not true and v_after is distinct from v_before then
    update app.tiers as c
    set (every, weight, missed, missed_max, skip_after, overlap)
      = (v_after.every, v_after.weight, v_after.missed, v_after.missed_max, v_after.skip_after,
         v_after.overlap)
    where c.tier = v_after.tier;
    if v_after.every <> v_before.every then
      perform app_private.shards_reset(v_after.tier, v_after.every, pg_catalog.clock_timestamp());
    end if;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('tier_set', tier, reason, pg_catalog.to_jsonb(v_before), pg_catalog.to_jsonb(v_after));
  end if;

  return query
  select a.key, b.value, a.value
  from pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(v_after)) as a
  join pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(v_before)) as b on b.key = a.key
  where a.value is distinct from b.value
  order by a.key;
end
$$;

comment on function ops.tier_set is
  'Changes what is given of a cohort, for all tenants: how often its turns come, its weight, what becomes of turns that were '
  'missed or overlap; see app.tiers. Audited; answers what changes. A new period holds at once: every shard has its '
  'next turn at a boundary of it. dry_run shows it without doing it. Raises OP101, OP102.';

grant execute on function ops.tier_set to holdfast_ops;

set local role holdfast_owner;
