set local role holdfast_system;

create or replace function ops.job_enqueue(
  tenant text, kind text, reason text, input jsonb default '{}', run_at timestamptz default now(),
  priority integer default 0, dry_run boolean default false)
returns table (run uuid, tenant_name text, run_kind text, due_at timestamptz, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_due_at    constant timestamptz := greatest(run_at, pg_catalog.now());
  v_run       app.job_runs;
begin
  perform app_private.reason_check(reason);
  perform app_private.job_request_check(kind, input, run_at, priority);
  perform app_private.job_kind_check(kind, input, by_tenant => false);

  if dry_run is not true then
    v_run := app_private.run_add(
      v_tenant_id, app_private.uuid_v7(), kind, input, v_due_at, priority::smallint);
    insert into ops.audit_log (action, subject, reason, after)
    values ('job_enqueue', tenant, job_enqueue.reason, pg_catalog.jsonb_build_object(
      'run', v_run.id, 'kind', kind, 'input', input, 'run_at', v_due_at, 'priority', priority));
  end if;

  return query
  select v_run.id, tenant, kind, v_due_at, case
    when dry_run is true then 'would be made'
    when v_run.token_at is null then 'made, and waits for its place'
    else 'made, and in the queue' end;
end
$$;

comment on function ops.job_enqueue is
  'Makes a run of a tenant, among all tenants, of any kind; audited. run_at is at most 366 days ahead; the lowest priority, -100 to '
  '100, goes first. dry_run checks it without making it. Raises TN101, JB102, JB103, JB104, OP101, OP102.';

grant execute on function ops.job_enqueue to holdfast_ops;

set local role holdfast_owner;
