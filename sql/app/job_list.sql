create or replace function app.job_list(
  tenant_id uuid, ticket text, state text default null, kind text default null, max_rows integer default 50,
  before uuid default null)
returns table (
  run_id uuid, run_kind text, run_state text, slot bigint, attempt integer, priority smallint,
  progress real, progress_text text, error_code text, error text, available_at timestamptz,
  created_at timestamptz, started_at timestamptz, finished_at timestamptz, cancel_requested_at timestamptz,
  discarded_at timestamptz)
language plpgsql
security definer  -- the service role may not read runs
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  if not coalesce(state in ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'DEAD_LETTER'), true)
    or coalesce(max_rows, 0) not between 1 and 200
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object(
        'argument', case when coalesce(max_rows, 0) between 1 and 200 then 'state' else 'max_rows' end),
      hint    = 'state is PENDING, RUNNING, COMPLETED, FAILED or DEAD_LETTER; max_rows is 1 to 200.';
  end if;

  return query
  select r.id, r.kind, r.state, r.slot, r.attempt, r.priority, r.progress, r.progress_text, r.error_code,
         r.error, r.available_at, r.created_at, r.started_at, r.finished_at, r.cancel_requested_at,
         r.discarded_at
  from app.job_runs as r
  where r.tenant_id = job_list.tenant_id
    and r.id < coalesce(job_list.before, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    and (job_list.state is null or r.state = job_list.state)
    and (job_list.kind is null or r.kind = job_list.kind)
  order by r.id desc
  limit job_list.max_rows;
end
$$;

comment on function app.job_list is
  'The runs of a tenant, newest first, of one state or kind where one is named; before goes on after a page: the last id of it. '
  'Raises OP102.';

grant execute on function app.job_list to holdfast_service, holdfast_worker;
