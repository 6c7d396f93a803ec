create or replace function app_private.turn_due(
  cohort app.tiers, at timestamptz, newest bigint, next_run_at timestamptz, seconds bigint, last_slot bigint)
returns table (slot bigint, missed bigint, counted bigint, taken bigint, then_at timestamptz)
language sql
immutable
begin atomic
  select case when x.runs then newest - x.back * seconds end,
         case when x.runs then x.between - x.back else 0 end,
         case when x.runs then x.between - x.back when newest > last_slot then x.between + 1 else 0 end,
         newest - x.back * seconds,
         case when x.back > 0 then at else next_run_at end
  from (
    select b.between,
           -- Below last_slot the clock has gone back: those turns were there already.
           coalesce(newest >= last_slot, true) and (cohort.missed <> 'skip'
             or extract(epoch from at) - newest <= extract(epoch from cohort.skip_after)) as runs,
           case when cohort.missed = 'all' then least(b.between, cohort.missed_max) else 0 end as back
    from (select coalesce(greatest(
            0, pg_catalog.ceil((newest - last_slot)::numeric / seconds)::bigint - 1), 0) as between
    ) as b) as x;
end;

comment on function app_private.turn_due is
  'What the policy of a cohort for missed turns makes of a turn that is due. newest is the slot that the moment belongs to, '
  'last_slot the last one that was dealt with. Answers the slot to make runs for (null: none), how many turns before it '
  'are given up and how many are to be counted as missed, up to which slot all is dealt with then, and when to look again.';

grant execute on function app_private.turn_due to holdfast_system;
