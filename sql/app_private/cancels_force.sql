create or replace function app_private.cancels_force() returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ended integer;
begin
  with stubborn as materialized (
    select r.tenant_id, r.id
    from app.job_runs as r
    where r.state = 'RUNNING'
      and (r.cancel_requested_at < pg_catalog.clock_timestamp() - interval '15 seconds'
        or (r.cancel_requested_at is not null and r.lease_until < pg_catalog.clock_timestamp()))
    for no key update skip locked
  )
  update app.job_runs as r
  set state = 'DEAD_LETTER',
      error_code = 'job_cancelled',
      error = 'It was cancelled, and its worker did not end it.',
      lease_until = null,
      finished_at = pg_catalog.clock_timestamp(),
      discarded_at = pg_catalog.clock_timestamp()
  from stubborn as s
  where r.tenant_id = s.tenant_id and r.id = s.id and r.state = 'RUNNING';
  get diagnostics v_ended = row_count;
  return v_ended;
end
$$;

comment on function app_private.cancels_force is
  'Ends the runs that were cancelled and whose worker is lost, or has not ended them for 15 s: what it still does is fenced.';

grant execute on function app_private.cancels_force to holdfast_system;
