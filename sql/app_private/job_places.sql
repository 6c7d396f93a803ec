create or replace function app_private.job_places(tenant_ids uuid[], kinds text[])
returns table (
  tenant_id uuid, kind text, weight numeric, size integer, used integer, rank smallint, waiting integer)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
begin
  return query
  select p.tenant_id, p.kind, c.weight, w.size, cardinality(taken.ranks), s.rank::smallint,
         taken.waiting
  from (select distinct u.tenant_id, u.kind from unnest(tenant_ids, kinds) as u (tenant_id, kind)) as p
  cross join (
    select array_agg(distinct o.kind) as kinds  -- null while no worker lives
    from app_private.workers_alive as x cross join unnest(x.kinds) as o (kind)) as alive
  join app.tenants as t on t.tenant_id = p.tenant_id and t.status = 'ACTIVE' and t.jobs_paused_at is null
  join app.tiers as c on c.tier = t.tier and c.paused_at is null
  join app.job_kinds as k on k.kind = p.kind and k.paused_at is null
    -- What no living worker serves would go from hand to hand.
    and (k.kind = any (alive.kinds)) is not false
  cross join lateral (select app_private.job_depth(k, c.weight) as size) as w
  cross join lateral (
    select coalesce(array_agg(r.token_rank), '{}') as ranks,
           (count(*) filter (where r.state <> 'RUNNING'))::integer as waiting
    from app.job_runs as r
    where r.tenant_id = p.tenant_id and r.kind = p.kind and r.token_at is not null
      and r.state in ('PENDING', 'RUNNING', 'FAILED')
      -- One that waits for its next attempt leaves its place to another.
      and (r.state <> 'FAILED' or r.available_at <= pg_catalog.clock_timestamp())) as taken
  cross join lateral (
    select g.rank
    from pg_catalog.generate_series(0, w.size - 1) as g (rank)
    where g.rank <> all (taken.ranks)
    order by g.rank
    limit greatest(0, w.size - cardinality(taken.ranks))) as s;  -- a rank may be held twice, a place not
end
$$;

comment on function app_private.job_places is
  'The free places in the queue of each tenant and kind, one row each, lowest rank first to be taken; size is how many '
  'there are, used how many runs hold one, waiting those of them that have not begun: counted from app.job_runs, so that none can leak. None while it is paused, '
  'and while none of the workers that live serves the kind.';

grant execute on function app_private.job_places to holdfast_system;
