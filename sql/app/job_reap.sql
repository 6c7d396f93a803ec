set local role holdfast_system;

create or replace function app.job_reap(max_rows integer default 500)
returns table (tenant_id uuid, run_id uuid, state text, error_code text, kind text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_reaped     app.job_runs[];
  v_run_ids    uuid[];
  v_tenant_ids uuid[];
begin
  perform app_private.cancels_force();

  with lost as materialized (
    select r.tenant_id, r.id, r.attempt,
           -- Of a tenant that was suspended meanwhile no attempt can write its end: that is no crash.
           r.crash_count + (t.status = 'ACTIVE')::integer as crashes
    from app.job_runs as r
    join app.tenants as t on t.tenant_id = r.tenant_id
    where r.state = 'RUNNING' and r.lease_until < pg_catalog.clock_timestamp()
      and r.cancel_requested_at is null  -- that one does not come back: cancels_force ends it
    order by r.lease_until
    limit max_rows
    for no key update of r skip locked
  ),
  back as (
    update app.job_runs as r
    set state = case when l.crashes >= 3 then 'DEAD_LETTER' else 'FAILED' end,
        crash_count = l.crashes,
        error_code = case when l.crashes >= 3 then 'poison' else 'worker_lost' end,
        error = 'The worker stopped beating before the attempt ended.',
        worker = null,
        lease_until = null,
        available_at = pg_catalog.clock_timestamp(),
        token_at = pg_catalog.clock_timestamp(),
        finished_at = case when l.crashes >= 3 then pg_catalog.clock_timestamp() end
    from lost as l
    where r.tenant_id = l.tenant_id and r.id = l.id and r.attempt = l.attempt
      and r.state = 'RUNNING' and r.lease_until < pg_catalog.clock_timestamp()
      and r.cancel_requested_at is null
    returning r.tenant_id, r.id, r.state, r as run
  )
  select array_agg(b.run),
         array_agg(b.id) filter (where b.state = 'FAILED'),
         array_agg(b.tenant_id) filter (where b.state = 'FAILED')
  into v_reaped, v_run_ids, v_tenant_ids
  from back as b;

  if v_run_ids is not null then
    perform app_private.runs_token(v_tenant_ids, v_run_ids);
  end if;
  return query select b.tenant_id, b.id, b.state, b.error_code, b.kind from unnest(v_reaped) as b;
end
$$;

comment on function app.job_reap is
  'Brings back the runs whose worker was lost, among all tenants: FAILED with a token at once, DEAD_LETTER '
  'after the third crash; ends those that were cancelled and went on for 15 s. Answers what became of each that was lost.';

grant execute on function app.job_reap to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
