set local role holdfast_system;

create or replace function app.job_reap(max_rows integer default 500) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_run_ids    uuid[];
  v_tenant_ids uuid[];
begin
  with lost as materialized (
    select r.tenant_id, r.id, r.attempt
    from app.job_runs as r
    where r.state = 'RUNNING' and r.lease_until < pg_catalog.clock_timestamp()
    order by r.lease_until
    limit max_rows
    for no key update skip locked
  ),
  back as (
    update app.job_runs as r
    set state = case when r.crash_count >= 2 then 'DEAD_LETTER' else 'FAILED' end,
        crash_count = r.crash_count + 1,
        error_code = case when r.crash_count >= 2 then 'poison' else 'worker_lost' end,
        error = 'The worker stopped beating before the attempt ended.',
        worker = null,
        lease_until = null,
        available_at = pg_catalog.clock_timestamp(),
        token_at = pg_catalog.clock_timestamp(),
        finished_at = case when r.crash_count >= 2 then pg_catalog.clock_timestamp() end
    from lost as l
    where r.tenant_id = l.tenant_id and r.id = l.id and r.attempt = l.attempt
      and r.state = 'RUNNING' and r.lease_until < pg_catalog.clock_timestamp()
    returning r.tenant_id, r.id, r.state
  ),
  dead as (
    insert into app.events (tenant_id, type, subject_id, data)
    select b.tenant_id, 'run.dead_letter', b.id, '{"error_code": "poison"}'
    from back as b where b.state = 'DEAD_LETTER'
  )
  select array_agg(b.id), array_agg(b.tenant_id) into v_run_ids, v_tenant_ids
  from back as b
  where b.state = 'FAILED';

  if v_run_ids is not null then
    perform app_private.tokens_add(v_run_ids, v_tenant_ids);
  end if;
  return coalesce(pg_catalog.cardinality(v_run_ids), 0) + app_private.tokens_repair(max_rows);
end
$$;

comment on function app.job_reap is
  'Brings back the runs whose worker was lost, among all tenants: FAILED with a token at once, DEAD_LETTER after the '
  'third crash. Also queues tokens that were lost. Answers how many runs got a token.';

grant execute on function app.job_reap to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
