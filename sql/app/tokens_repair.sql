set local role holdfast_system;

create or replace function app.tokens_repair(max_rows integer default 500) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_run_ids    uuid[];
  v_tenant_ids uuid[];
begin
  with late as materialized (
    select r.tenant_id, r.id
    from app.job_runs as r
    join app.tenants as t on t.tenant_id = r.tenant_id and t.status = 'ACTIVE'
    where r.state in ('PENDING', 'FAILED')
      and r.available_at < pg_catalog.clock_timestamp() - interval '15 seconds'
      and r.token_at < pg_catalog.clock_timestamp() - interval '15 seconds'
    order by r.available_at
    limit max_rows
    for no key update of r skip locked
  ),
  marked as (
    update app.job_runs as r
    set token_at = pg_catalog.clock_timestamp()
    from late as l
    where r.tenant_id = l.tenant_id and r.id = l.id and r.state in ('PENDING', 'FAILED')
    returning r.tenant_id, r.id
  )
  select array_agg(m.id), array_agg(m.tenant_id) into v_run_ids, v_tenant_ids from marked as m;

  if v_run_ids is null then
    return 0;
  end if;
  return app_private.tokens_add(v_run_ids, v_tenant_ids);
end
$$;

comment on function app.tokens_repair is
  'Queues the token of every run that has waited 15 s since it was due, among all tenants. A token that is '
  'still queued replaces itself, so that losing one, or the whole queue, loses no run. Answers how many.';

grant execute on function app.tokens_repair to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
