set local role holdfast_system;

create or replace function app_private.partition_needed(
  table_name text, month_start timestamptz, month_end timestamptz, keep interval) returns boolean
language plpgsql
volatile          -- asked again under the lock, it must see what was committed while that was waited for
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_from  constant uuid := app_private.uuid_v7_floor(month_start);
  v_below constant uuid := app_private.uuid_v7_floor(month_end);
begin
  if table_name = 'events' then
    return false;
  end if;
  -- A run has its events in its own month and in later ones.
  return exists (
      select from app.job_runs as r
      where (r.id >= v_from or table_name = 'job_run_events') and r.id < v_below
        and r.state in ('PENDING', 'RUNNING', 'FAILED'))
    or exists (
      select from app.job_runs as r
      where (r.id >= v_from or table_name = 'job_run_events') and r.id < v_below
        and r.state = 'DEAD_LETTER' and r.discarded_at is null
        and r.finished_at > pg_catalog.now() - 2 * keep);
end
$$;

comment on function app_private.partition_needed is
  'Whether a month that is old enough to go must stay, among all tenants: it holds a run, or events of one, that has not ended, or of a dead letter '
  'that waits for a person and ended less than 2 x keep ago. After that it has waited in vain, and goes with its month.';

grant execute on function app_private.partition_needed to holdfast_owner;

set local role holdfast_owner;
