set local role holdfast_system;

create or replace function app.tokens_repair(max_rows integer default 500)
returns table (looked_at integer, repaired integer)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_run_ids    uuid[];
  v_tenant_ids uuid[];
  v_keys       text[];
  v_wanted     text[];
begin
  with late as materialized (
    select r.tenant_id, r.id,
           r.slot is not null and r.token_at < r.available_at + interval '5 minutes'
             and r.available_at < pg_catalog.clock_timestamp() - interval '5 minutes' as aged
    from app.job_runs as r
    where r.state in ('PENDING', 'FAILED')
      and r.token_at < pg_catalog.clock_timestamp() - interval '15 seconds'
      and r.available_at < pg_catalog.clock_timestamp() - interval '15 seconds'
    order by r.token_at
    limit max_rows
    for no key update skip locked
  ),
  marked as (
    update app.job_runs as r
    set token_at = pg_catalog.clock_timestamp()
    from late as l
    where r.tenant_id = l.tenant_id and r.id = l.id and r.state in ('PENDING', 'FAILED')
    returning r.tenant_id, r.id, 'run:' || r.id || ':' || r.attempt as key, l.aged
  )
  select array_agg(m.id), array_agg(m.tenant_id), array_agg(m.key), array_agg(m.key) filter (where m.aged)
  into v_run_ids, v_tenant_ids, v_keys, v_wanted
  from marked as m;

  looked_at := coalesce(pg_catalog.cardinality(v_keys), 0);
  repaired := 0;
  if looked_at > 0 then
    v_wanted := v_wanted
      || app_private.tokens_missing(v_keys, array(select x.pool from app.job_workers as x));
    select array_agg(w.run_id), array_agg(w.tenant_id) into v_run_ids, v_tenant_ids
    from unnest(v_run_ids, v_tenant_ids, v_keys) as w (run_id, tenant_id, key)
    where w.key = any (v_wanted);
    repaired := app_private.runs_token(v_tenant_ids, v_run_ids);
  end if;
  return next;
end
$$;

comment on function app.tokens_repair is
  'Queues the token of every run that has waited 15 s since it was due and has none, among all tenants: losing one, or the '
  'whole queue, loses no run. Scheduled runs that have waited five minutes go first from then on. Looks at the '
  'max_rows that were looked at longest ago; answers how many it looked at and queued.';

grant execute on function app.tokens_repair to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
