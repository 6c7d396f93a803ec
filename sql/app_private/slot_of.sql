create or replace function app_private.slot_of(at timestamptz, every interval, shard smallint)
returns table (slot bigint, next_run_at timestamptz)
language sql
stable
set search_path = ''
as $$
  -- Shard k is due k/16 of a period after its start, so that all tenants of a tier are never due at once.
  select s.slot, pg_catalog.to_timestamp((s.slot + 1) * p.seconds + p.phase)
  from (select extract(epoch from every) as seconds, shard * extract(epoch from every) / 16 as phase) as p
  cross join lateral (select floor((extract(epoch from at) - p.phase) / p.seconds)::bigint as slot) as s
$$;

comment on function app_private.slot_of is
  'Which turn of a shard a moment belongs to, and the moment of the next one: always the first boundary after now, so '
  'that missed turns are taken once.';

grant execute on function app_private.slot_of to holdfast_system;
