set local role holdfast_system;

create or replace function ops.why_waiting(tenant text)
returns table (run uuid, kind text, state text, since timestamptz, why text, fix text)
language plpgsql
stable
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(why_waiting.tenant);
begin
  return query
  with waits as materialized (
    select x.*, 'run:' || x.id || ':' || x.attempt as key
    from (
      select w.*, count(*) over () as runs,
             row_number() over (partition by w.kind, w.cause order by w.priority, w.available_at, w.id) as n
      from app_private.run_waits as w
      where w.tenant_id = v_tenant_id) as x
    -- The first of each kind and cause, so that a thousand alike do not hide one that is not.
    order by x.n > 10, x.available_at > pg_catalog.now(), x.token_at is null, x.priority, x.available_at, x.id
    limit 100
  ),
  causes as (
    select w.*, p.ahead,
           case when w.cause = 'queued' and p.key is null then 'token_lost' else w.cause end as found
    from waits as w
    left join app_private.token_places(array(select x.key from waits as x where x.cause = 'queued')) as p
      on p.key = w.key
  )
  select c.id, c.kind, c.state, pg_catalog.date_trunc('second', c.since),
         case when c.found <> 'queued' then
                app_private.wait_why(c.found, c.kind, c.tier, c.used, c.size, c.error_code, c.available_at)
              when c.ahead = 0 then 'next in the queue: a worker takes it when one is free'
              else 'waits in the queue behind ' || c.ahead
                || case when c.ahead >= 10000 then ' or more' else '' end || ' others' end,
         app_private.wait_fix(c.found, why_waiting.tenant, c.kind, c.tier, c.id)
  from causes as c
  union all
  select null, null, null, null, 'and ' || (max(w.runs) - 100) || ' more',
         pg_catalog.format('select * from ops.jobs where tenant = %L',
           pg_catalog.left(why_waiting.tenant, 14))
  from waits as w
  having max(w.runs) > 100
  union all
  select null, s.kind, null, pg_catalog.date_trunc('second', s.since),
         'its turn has not come to it: the ' || s.after || ' before it has not ended',
         pg_catalog.format('select * from ops.job_show(%L)', s.run_id)
  from app_private.slot_waits as s
  where s.tenant_id = v_tenant_id
  union all
  select null, r.kind, 'DEAD_LETTER', pg_catalog.date_trunc('second', min(r.finished_at)),
         count(*) || case when count(*) = 1 then ' dead letter waits' else ' dead letters wait' end
           || ' for a person: ' || r.error_code,
         pg_catalog.format(
           'select * from ops.job_replay(%L, actor => ''…'', reason => ''…'', dry_run => false)',
           pg_catalog.jsonb_build_object(
             'tenant', why_waiting.tenant, 'kind', r.kind, 'error_code', r.error_code))
  from app.job_runs as r
  where r.tenant_id = v_tenant_id and r.state = 'DEAD_LETTER' and r.discarded_at is null
  group by r.kind, r.error_code;
end
$$;

comment on function ops.why_waiting is
  'Why each run of a tenant that has not ended does not run, in words, and what to type; among all tenants. The first 100, how '
  'many more there are, the kinds that follow in the turns under way, and the dead letters. Raises TN101.';

grant execute on function ops.why_waiting to holdfast_ops;

set local role holdfast_owner;
