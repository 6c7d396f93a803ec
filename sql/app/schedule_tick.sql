set local role holdfast_system;

create or replace function app.schedule_tick(max_runs integer default 50000)
returns table (cohort text, runs integer, shards integer, overlapped integer, duplicates integer)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
set enable_seqscan = off  -- plans are kept, and tables that were small when they were made grow
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_now        constant timestamptz := pg_catalog.clock_timestamp();
  v_left       integer := max_runs;
  v_since      timestamptz := '-infinity'::timestamptz;
  v_claimed    integer;
  v_turn       record;
  v_tenant_ids uuid[] := array[]::uuid[];
  v_cohorts    text[] := array[]::text[];
  v_slots      bigint[] := array[]::bigint[];
  v_missed     bigint[] := array[]::bigint[];
  v_shards     integer := 0;
  v_made       app_private.cohort_turns[] := array[]::app_private.cohort_turns[];
begin
  if coalesce(max_runs, 0) not between 1 and 1000000 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('max_runs', max_runs),
      hint    = 'One transaction makes 1 to 1000000 runs; 50000 keep it short.';
  end if;

  while v_left > 0 loop
    select t.* into v_turn from app_private.shard_take(v_now, v_left, v_since) as t;
    exit when not found;
    v_since := v_turn.due_at;
    v_claimed := pg_catalog.cardinality(v_turn.tenant_ids);
    v_left := v_left - v_claimed;
    v_shards := v_shards + 1;
    v_made := v_made || row(v_turn.cohort, 0, 1, v_turn.overlapped, 0)::app_private.cohort_turns;
    v_tenant_ids := v_tenant_ids || v_turn.tenant_ids;
    v_cohorts := v_cohorts || pg_catalog.array_fill(v_turn.cohort, array[v_claimed]);
    v_slots := v_slots || pg_catalog.array_fill(v_turn.slot, array[v_claimed]);
    v_missed := v_missed || pg_catalog.array_fill(v_turn.missed, array[v_claimed]);
    -- In parts, for growing arrays are copied; and where the shard comes again, its runs have to be there.
    if v_turn.again or v_shards % 100 = 0 then
      v_made := v_made || app_private.turns_make(v_tenant_ids, v_cohorts, v_slots, v_missed);
      v_tenant_ids := array[]::uuid[]; v_cohorts := array[]::text[];
      v_slots := array[]::bigint[]; v_missed := array[]::bigint[];
    end if;
  end loop;
  v_made := v_made || app_private.turns_make(v_tenant_ids, v_cohorts, v_slots, v_missed);

  v_made := v_made || app_private.own_turns_make(v_now, v_left);

  return query
  select c.tier, sum(m.runs)::integer, sum(m.shards)::integer, sum(m.overlapped)::integer,
         sum(m.duplicates)::integer
  from unnest(v_made) as m
  join app.tiers as c on c.tier = m.cohort
  group by c.tier
  having sum(m.runs + m.shards + m.overlapped + m.duplicates) > 0
  order by c.rank;
end
$$;

comment on function app.schedule_tick is
  'Makes the runs that are due, among all tenants, with their tokens, in one transaction: up to max_runs of them, and what '
  'is left is for the next call. Any number may call it at once: each takes the shards that no other holds, those that are '
  'due for the longest first, and a tenant has one run for a slot, whoever ticks. Suspended and paused tenants and paused '
  'cohorts have no turns. Answers for each cohort that had something: the runs made, the shards dealt with, the turns passed '
  'over because those before had not ended (overlapped), and those that their tenants had already (duplicates). There may '
  'be more to do while runs or shards are not 0. Raises OP102.';

grant execute on function app.schedule_tick to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
