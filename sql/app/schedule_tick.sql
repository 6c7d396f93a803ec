set local role holdfast_system;

create or replace function app.schedule_tick(max_runs integer default 50000)
returns table (cohort text, runs integer, shards integer)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
set enable_seqscan = off  -- plans are kept, and tables that were small when they were made grow
as $$
declare
  v_now        constant timestamptz := pg_catalog.clock_timestamp();
  v_left       integer := max_runs;
  v_claimed    integer;
  v_turn       record;
  v_tenant_ids uuid[] := array[]::uuid[];
  v_slots      bigint[] := array[]::bigint[];
  v_missed     bigint[] := array[]::bigint[];
  v_shards     text[] := array[]::text[];
  v_made       jsonb[] := array[]::jsonb[];
begin
  if coalesce(max_runs, 0) not between 1 and 1000000 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('max_runs', max_runs),
      hint    = 'One transaction makes 1 to 1000000 runs; 50000 keep it short.';
  end if;

  while v_left > 0 loop
    select t.* into v_turn from app_private.shard_take(v_now, v_left) as t;
    exit when not found;
    v_claimed := pg_catalog.cardinality(v_turn.tenant_ids);
    v_left := v_left - v_claimed;
    v_shards := v_shards || v_turn.cohort;
    v_tenant_ids := v_tenant_ids || v_turn.tenant_ids;
    v_slots := v_slots || pg_catalog.array_fill(v_turn.slot, array[v_claimed]);
    v_missed := v_missed || pg_catalog.array_fill(v_turn.missed, array[v_claimed]);
    -- Where the shard comes again in this tick, its runs have to be there: turns that overlap are counted.
    if v_turn.again then
      v_made := v_made || app_private.turns_make(v_tenant_ids, v_slots, v_missed);
      v_tenant_ids := array[]::uuid[];
      v_slots := array[]::bigint[];
      v_missed := array[]::bigint[];
    end if;
  end loop;
  v_made := v_made || app_private.turns_make(v_tenant_ids, v_slots, v_missed);

  while v_left > 0 loop
    select count(*), array_agg(o.tenant_id) filter (where o.slot is not null),
           array_agg(o.slot) filter (where o.slot is not null),
           array_agg(o.missed) filter (where o.slot is not null)
    into v_claimed, v_tenant_ids, v_slots, v_missed
    from app_private.own_turns_take(v_now, v_left) as o;
    exit when v_claimed = 0;
    v_left := v_left - coalesce(pg_catalog.cardinality(v_tenant_ids), 0);
    v_made := v_made || app_private.turns_make(v_tenant_ids, v_slots, v_missed);
  end loop;

  return query
  select c.tier, coalesce(r.runs, 0)::integer, coalesce(s.shards, 0)::integer
  from app.tiers as c
  left join (select e.key, sum(e.value::integer) as runs
             from unnest(v_made) as m (made) cross join pg_catalog.jsonb_each_text(m.made) as e
             group by e.key) as r on r.key = c.tier
  left join (select x.tier, count(*) as shards
             from unnest(v_shards) as x (tier) group by x.tier) as s on s.tier = c.tier
  where coalesce(r.runs, s.shards) is not null
  order by c.rank;
end
$$;

comment on function app.schedule_tick is
  'Makes the runs that are due, among all tenants, with their tokens, in one transaction: up to max_runs of them, and what '
  'is left is for the next call. Any number may call it at once: each takes the shards that no other holds, those that are '
  'due for the longest first, and a tenant has one run for a slot, whoever ticks. Suspended and paused tenants and paused '
  'cohorts have no turns. Answers the runs made and shards dealt with for each cohort that had something. Raises OP102.';

grant execute on function app.schedule_tick to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
