create or replace function app_private.turn_overlaps(cohort app.tiers) returns bigint
language sql
immutable
parallel safe
return case cohort.overlap
  when 'skip' then 0
  when 'queue' then case when cohort.missed = 'all' then cohort.missed_max else 1 end end;

comment on function app_private.turn_overlaps is
  'How many turns of a tenant may not have ended when the next is made; null: any number, for they are cancelled. With '
  'queue that is the one at work, so that one waits; when all missed turns are made, up to missed_max of them wait.';

grant execute on function app_private.turn_overlaps to holdfast_system;
