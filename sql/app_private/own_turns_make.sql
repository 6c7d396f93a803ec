create or replace function app_private.own_turns_make(at timestamptz, max_runs integer) returns jsonb[]
language plpgsql
set search_path = ''
as $$
declare
  v_left       integer := max_runs;
  v_claimed    integer;
  v_tenant_ids uuid[];
  v_cohorts    text[];
  v_slots      bigint[];
  v_missed     bigint[];
  v_made       jsonb[] := array[]::jsonb[];
begin
  -- A tenant with more turns to take comes again, when the run of the one before is there.
  while v_left > 0 loop
    select count(*), array_agg(o.tenant_id) filter (where o.slot is not null),
           array_agg(o.cohort) filter (where o.slot is not null),
           array_agg(o.slot) filter (where o.slot is not null),
           array_agg(o.missed) filter (where o.slot is not null)
    into v_claimed, v_tenant_ids, v_cohorts, v_slots, v_missed
    from app_private.own_turns_take(at, v_left) as o;
    exit when v_claimed = 0;
    v_left := v_left - coalesce(pg_catalog.cardinality(v_tenant_ids), 0);
    v_made := v_made || app_private.turns_make(v_tenant_ids, v_cohorts, v_slots, v_missed);
  end loop;
  return v_made;
end
$$;

comment on function app_private.own_turns_make is
  'Makes the runs of up to max_runs own turns of tenants that are due; answers how many per cohort, as turns_make does.';

grant execute on function app_private.own_turns_make to holdfast_system;
