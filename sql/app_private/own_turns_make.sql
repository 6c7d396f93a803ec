create or replace function app_private.own_turns_make(at timestamptz, max_runs integer)
returns app_private.cohort_turns[]
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
  v_passed     app_private.cohort_turns[];
  v_made       app_private.cohort_turns[] := array[]::app_private.cohort_turns[];
begin
  -- A tenant with more turns to take comes again, when the run of the one before is there.
  while v_left > 0 loop
    with taken as materialized (select o.* from app_private.own_turns_take(at, v_left) as o)
    select count(*), array_agg(t.tenant_id) filter (where t.slot is not null),
           array_agg(t.cohort) filter (where t.slot is not null),
           array_agg(t.slot) filter (where t.slot is not null),
           array_agg(t.missed) filter (where t.slot is not null),
           array(select row(x.cohort, 0, 0, count(*), 0)::app_private.cohort_turns
                 from taken as x where x.overlapped group by x.cohort)
    into v_claimed, v_tenant_ids, v_cohorts, v_slots, v_missed, v_passed
    from taken as t;
    exit when v_claimed = 0;
    v_left := v_left - coalesce(pg_catalog.cardinality(v_tenant_ids), 0);
    v_made := v_made || v_passed || app_private.turns_make(v_tenant_ids, v_cohorts, v_slots, v_missed);
  end loop;
  return v_made;
end
$$;

comment on function app_private.own_turns_make is
  'Makes the runs of up to max_runs own turns of tenants that are due; answers those of each cohort as turns_make does, '
  'in parts, and as overlapped the turns that were passed over because those before had not ended.';

grant execute on function app_private.own_turns_make to holdfast_system;
