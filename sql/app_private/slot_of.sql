create or replace function app_private.slot_of(at timestamptz, every interval, shard smallint)
returns table (slot bigint, next_run_at timestamptz, seconds bigint)
language sql
stable
begin atomic
  -- Shard k is due k/256 of a period after its start, so that all tenants of a tier are never due at once.
  select s.turn * p.seconds + p.phase, pg_catalog.to_timestamp((s.turn + 1) * p.seconds + p.phase), p.seconds
  from (select e.seconds, shard * e.seconds / 256 as phase
        from (select pg_catalog.floor(extract(epoch from every))::bigint as seconds) as e) as p
  cross join lateral (
    select pg_catalog.floor(
      (pg_catalog.floor(extract(epoch from at)) - p.phase) / p.seconds)::bigint as turn) as s;
end;

comment on function app_private.slot_of is
  'Which turn of a shard a moment belongs to, as the second since 1970 in which it began; the moment of the next one, '
  'always the first boundary after the given one; and the seconds between two.';

grant execute on function app_private.slot_of to holdfast_system;
