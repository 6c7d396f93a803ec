create or replace function app_private.turns_cancel(tenant_ids uuid[], cohorts text[], slots bigint[])
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ended integer;
begin
  if not exists (select from app.tiers as c where c.overlap = 'cancel') then
    return 0;
  end if;

  with late as materialized (
    select r.tenant_id, r.id
    from unnest(tenant_ids, cohorts, slots) as w (tenant_id, cohort, slot)
    join app.tiers as c on c.tier = w.cohort and c.overlap = 'cancel'
    join app.job_runs as r on r.tenant_id = w.tenant_id and r.slot < w.slot
      and r.state in ('PENDING', 'RUNNING', 'FAILED') and r.cancel_requested_at is null
    order by r.tenant_id, r.id
    for no key update of r skip locked
  )
  update app.job_runs as r
  set state = case r.state when 'RUNNING' then 'RUNNING' else 'DEAD_LETTER' end,
      cancel_requested_at = case r.state when 'RUNNING' then pg_catalog.clock_timestamp() end,
      error_code = case r.state when 'RUNNING' then r.error_code else 'job_cancelled' end,
      error = case r.state when 'RUNNING' then r.error else 'The next turn began before it ended.' end,
      finished_at = case r.state when 'RUNNING' then null else pg_catalog.clock_timestamp() end,
      discarded_at = case r.state when 'RUNNING' then null else pg_catalog.clock_timestamp() end,
      actor = 'scheduler',
      reason = 'The next turn began before it ended.'
  from late as l
  where r.tenant_id = l.tenant_id and r.id = l.id;
  get diagnostics v_ended = row_count;
  return v_ended;
end
$$;

comment on function app_private.turns_cancel is
  'Ends the runs of earlier turns of these tenants where the cohort says so (overlap cancel): those that wait at once, those '
  'that run are asked to. What a worker starts or ends at this moment is left to it. Answers how many.';

grant execute on function app_private.turns_cancel to holdfast_system;
