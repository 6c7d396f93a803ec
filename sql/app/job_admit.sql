set local role holdfast_system;

create or replace function app.job_admit(
  max_pairs integer default 10000, after_tenant_id uuid default null, after_kind text default null)
returns table (admitted integer, last_tenant_id uuid, last_kind text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_ids uuid[];
  v_kinds      text[];
begin
  -- From one tenant and kind to the next by the index, however many runs of each are parked.
  with recursive parked as (
    (select r.tenant_id, r.kind, 1 as n
     from app.job_runs as r
     where r.state in ('PENDING', 'FAILED') and r.token_at is null
       and (after_tenant_id is null or (r.tenant_id, r.kind) > (after_tenant_id, after_kind))
     order by r.tenant_id, r.kind
     limit 1)
    union all
    select x.tenant_id, x.kind, p.n + 1
    from parked as p
    cross join lateral (
      select r.tenant_id, r.kind
      from app.job_runs as r
      where r.state in ('PENDING', 'FAILED') and r.token_at is null
        and (r.tenant_id, r.kind) > (p.tenant_id, p.kind)
      order by r.tenant_id, r.kind
      limit 1) as x
    where p.n < max_pairs
  )
  select array_agg(p.tenant_id order by p.n), array_agg(p.kind order by p.n) into v_tenant_ids, v_kinds
  from parked as p;

  if pg_catalog.cardinality(v_kinds) = max_pairs then
    last_tenant_id := v_tenant_ids[max_pairs];
    last_kind := v_kinds[max_pairs];
  end if;

  -- However long the round is: what has become due since the last look comes first.
  select v_tenant_ids || array_agg(d.tenant_id), v_kinds || array_agg(d.kind) into v_tenant_ids, v_kinds
  from (
    select r.tenant_id, r.kind
    from app.job_runs as r
    where r.state in ('PENDING', 'FAILED') and r.token_at is null
      and r.available_at between pg_catalog.now() - interval '5 seconds' and pg_catalog.now()
    order by r.available_at desc
    limit max_pairs) as d;

  admitted := case when v_kinds is null then 0 else app_private.runs_admit(v_tenant_ids, v_kinds) end;
  return next;
end
$$;

comment on function app.job_admit is
  'Admits the parked runs that are due and have a place, among all tenants: those of a later moment, those of a pause that has '
  'ended, and what two transactions overlooked in each other. Looks at max_pairs tenants and kinds after the given one, and at '
  'as many that have become due just now; answers how many it admitted and where to go on: null at the end.';

grant execute on function app.job_admit to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
