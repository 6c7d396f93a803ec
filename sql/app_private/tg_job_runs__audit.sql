create or replace function app_private.tg_job_runs__audit() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    insert into app.job_run_events (tenant_id, run_id, to_state, attempt, actor)
    select n.tenant_id, n.id, n.state, n.attempt, session_user
    from new_rows as n;
  else
    insert into app.job_run_events (tenant_id, run_id, from_state, to_state, attempt, actor, reason)
    select n.tenant_id, n.id, o.state, n.state, n.attempt, coalesce(n.worker, session_user),
           case when n.state in ('FAILED', 'DEAD_LETTER', 'PENDING') then n.error_code end
    from new_rows as n
    join old_rows as o on o.tenant_id = n.tenant_id and o.id = n.id
    where o.state <> n.state;
  end if;
  return null;
end
$$;

comment on function app_private.tg_job_runs__audit is
  'Writes every change of state to app.job_run_events, many rows at a time. The actor is the worker that claimed the '
  'run, else the login. A statement on a single partition, which nothing here makes, would not be seen.';

create or replace trigger _200_audit_insert
  after insert on app.job_runs
  referencing new table as new_rows
  for each statement execute function app_private.tg_job_runs__audit();

create or replace trigger _210_audit_update
  after update on app.job_runs
  referencing old table as old_rows new table as new_rows
  for each statement execute function app_private.tg_job_runs__audit();
