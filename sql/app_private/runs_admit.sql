create or replace function app_private.runs_admit(tenant_ids uuid[], kinds text[]) returns integer
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_tokens app_private.token[];
begin
  with places as materialized (
    select f.tenant_id, f.kind, f.weight, f.rank,
           row_number() over (partition by f.tenant_id, f.kind order by f.rank) as n
    from app_private.job_places(tenant_ids, kinds) as f
    join app.job_kinds as k on k.kind = f.kind
    -- Where any number may run, the window is only depth, filled when half of it has begun: each filling is a notice
    -- to every worker.
    where k.max_running is not null or f.waiting * 2 <= f.size
  ),
  next as materialized (
    select p.tenant_id, p.kind, r.id,
           row_number() over (partition by p.tenant_id, p.kind order by r.priority, r.available_at, r.id) as n
    from (select l.tenant_id, l.kind, max(l.n) as free from places as l group by l.tenant_id, l.kind) as p
    cross join lateral (
      select x.id, x.priority, x.available_at
      from app.job_runs as x
      where x.tenant_id = p.tenant_id and x.kind = p.kind and x.state in ('PENDING', 'FAILED')
        and x.token_at is null and x.available_at <= pg_catalog.clock_timestamp()
      order by x.priority, x.available_at, x.id
      limit p.free
      for no key update skip locked) as r
  ),
  admitted as (
    update app.job_runs as r
    set token_at = pg_catalog.clock_timestamp(), token_rank = l.rank
    from next as x
    join places as l on l.tenant_id = x.tenant_id and l.kind = x.kind and l.n = x.n
    where r.tenant_id = x.tenant_id and r.id = x.id and r.token_at is null
      and r.state in ('PENDING', 'FAILED')
    returning app_private.token_of(r, l.weight) as token
  )
  select array_agg(a.token) into v_tokens from admitted as a;

  return case when v_tokens is null then 0 else app_private.tokens_add(v_tokens) end;
end
$$;

comment on function app_private.runs_admit is
  'Gives parked runs of these tenants and kinds (pairs) the places that are free, with their tokens; answers how many. What '
  'another transaction admits is skipped: never a deadlock, never twice.';

grant execute on function app_private.runs_admit to holdfast_system;
