create or replace function app_private.slot_input(ended app.job_runs) returns jsonb
language sql
immutable
set search_path = ''
as $$
  select coalesce(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
    'missed_slots', (ended).input -> 'missed_slots',
    'without', nullif(coalesce((ended).input -> 'without', '[]') || case
      when (ended).state = 'DEAD_LETTER' then pg_catalog.to_jsonb(array[(ended).kind])
      else '[]' end, '[]'))), '{}')
$$;

comment on function app_private.slot_input is
  'What the next run of a slot is told by the one before it: without, the kinds that have failed for good; missed_slots, how '
  'many turns it stands for beside its own.';

grant execute on function app_private.slot_input to holdfast_system;
