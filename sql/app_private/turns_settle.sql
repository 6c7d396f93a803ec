create or replace function app_private.turns_settle(tenant_ids uuid[]) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_now  constant timestamptz := pg_catalog.clock_timestamp();
  v_news app_private.newcomer[];
  v_made integer;
begin
  v_news := array(select n from app_private.newcomers(tenant_ids, v_now) as n);

  -- Later than a period of its new cohort already: its turn is now.
  select coalesce(sum(m.runs), 0) into v_made
  from (
    select app_private.turns_make(array_agg(n.tenant_id), array_agg(t.tier), array_agg(n.slot),
             array_agg(0::bigint)) as made
    from unnest(v_news) as n
    join app.tenants as t on t.tenant_id = n.tenant_id
    where n.at_once) as a
  cross join lateral unnest(a.made) as m;

  -- The next turn of the shard would come too soon after its last one: it counts as taken by that.
  insert into app.job_slots (tenant_id, kind, slot, run_id)
  select n.tenant_id, k.kind, n.next_slot, l.run_id
  from unnest(v_news) as n
  cross join lateral (select app_private.turn_last(n.tenant_id) as run_id) as l
  join app.job_kinds as k on k.slot_order is not null
  where l.run_id > app_private.uuid_v7_floor(n.next_at - n.every / 2)
  order by n.tenant_id, k.kind
  on conflict on constraint job_slots_pkey do nothing;
  return v_made;
end
$$;

comment on function app_private.turns_settle is
  'What becomes of the turns of tenants that have come to another cohort, in the transaction that moves them and under '
  'the locks of the shards that they leave and enter, so that neither is being ticked. A tenant whose last turn is a '
  'period of its new cohort or more ago has one now; then the next turn of the shard counts as taken when it would begin '
  'less than half a period after its last one. So, while ticks are punctual and whatever cohorts a tenant goes through: two '
  'of its turns never begin less than half a period of the cohort that makes the second apart, and never more than twice '
  'the longest period. Answers how many runs were made at once.';

grant execute on function app_private.turns_settle to holdfast_system;
