create or replace function app.job_enqueue(
  tenant_id uuid, ticket text, kind text, input jsonb default '{}', run_at timestamptz default now(),
  idempotency_key text default null, priority integer default 0)
returns table (run_id uuid, state text, available_at timestamptz, created_at timestamptz, replayed boolean)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_now    constant timestamptz := pg_catalog.now();
  v_run_id constant uuid := app_private.uuid_v7();
  v_known  uuid;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.job_request_check(kind, input, run_at, priority);

  -- The moment counts only where one was named: "now" is another one each time that a caller tries again.
  v_known := app_private.job_run_key_take(tenant_id, idempotency_key, v_run_id, pg_catalog.jsonb_build_array(
    'job', kind, input, case when run_at <> v_now then extract(epoch from run_at) end, priority)::text);
  if v_known is null then
    perform app_private.job_kind_check(kind, input, by_tenant => true);
    perform app_private.run_add(
      tenant_id, v_run_id, kind, input, greatest(run_at, v_now), priority::smallint);
    perform app_private.tenant_active(tenant_id);
  end if;

  return query
  select r.id, r.state, r.available_at, r.created_at, v_known is not null
  from app.job_runs as r
  where r.tenant_id = job_enqueue.tenant_id and r.id = coalesce(v_known, v_run_id);
end
$$;

comment on function app.job_enqueue is
  'Asks for a run, in the transaction of the caller: with it, it is there or not. run_at is at most 366 days ahead; the lowest '
  'priority, -100 to 100, goes first among the tenant''s own. The same key with the same request answers the first run again, '
  'replayed. Raises JB102, JB103, JB104, JB105, LB103, OP102.';

grant execute on function app.job_enqueue to holdfast_service, holdfast_worker;
