create or replace function app_private.shards_reset(tier text, every interval, at timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_reset integer;
begin
  with shards as materialized (
    select s.tier, s.shard from app.schedules as s
    where s.tier = shards_reset.tier order by s.shard for no key update
  )
  update app.schedules as s
  set next_run_at = n.next_run_at
  from shards as h
  join app.schedules as x on x.tier = h.tier and x.shard = h.shard
  cross join lateral app_private.slot_of(
    greatest(at, pg_catalog.to_timestamp(x.last_slot) + every / 2), every, x.shard) as n
  where s.tier = h.tier and s.shard = h.shard and s.next_run_at > at;
  get diagnostics v_reset = row_count;
  return v_reset;
end
$$;

comment on function app_private.shards_reset is
  'Sets when the shards of a cohort are due next, now that its period is another: at the first of the new boundaries that is half '
  'a period after the last turn. So all wait for at most twice the longer of the two periods, and do not all come at once. '
  'What is due already stays so. Waits for ticks that are at these shards. Answers how many were set.';

grant execute on function app_private.shards_reset to holdfast_system;
