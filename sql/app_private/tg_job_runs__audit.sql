create or replace function app_private.tg_job_runs__audit() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    insert into app.job_run_events (tenant_id, run_id, to_state, attempt, actor)
    select n.tenant_id, n.id, n.state, n.attempt, session_user
    from new_rows as n;
    return null;
  end if;

  -- What a worker never does, a person did.
  if new.actor is not null
    and (old.state = 'DEAD_LETTER' or (new.state = 'DEAD_LETTER' and new.discarded_at is not null))
  then
    insert into app.job_run_events (tenant_id, run_id, from_state, to_state, attempt, actor, reason)
    values (new.tenant_id, new.id, old.state, new.state, new.attempt, new.actor, new.reason);
  else
    insert into app.job_run_events (tenant_id, run_id, from_state, to_state, attempt, actor, reason)
    values (new.tenant_id, new.id, old.state, new.state, new.attempt, coalesce(new.worker, session_user),
            case when new.state in ('FAILED', 'DEAD_LETTER', 'PENDING') then new.error_code end);
  end if;
  return null;
end
$$;

comment on function app_private.tg_job_runs__audit is
  'Writes every change of state to app.job_run_events. The actor is the worker that claimed the run, or the person who '
  'cancelled or replayed it, else the login. New runs come many at a time, and so do their events; changes come one at a '
  'time, and a trigger for each row costs a fifth of one for the statement.';

create or replace trigger _200_audit_insert
  after insert on app.job_runs
  referencing new table as new_rows
  for each statement execute function app_private.tg_job_runs__audit();

create or replace trigger _210_audit_update
  after update on app.job_runs
  for each row when (old.state is distinct from new.state)
  execute function app_private.tg_job_runs__audit();
