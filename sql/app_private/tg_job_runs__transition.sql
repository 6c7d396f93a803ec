create or replace function app_private.tg_job_runs__transition() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if not exists (
    select from app.job_run_transitions as t where t.from_state = old.state and t.to_state = new.state)
  then
    raise exception using
      errcode = 'JB202',
      message = 'job_transition_refused',
      detail  = pg_catalog.jsonb_build_object('run_id', old.id, 'from', old.state, 'to', new.state),
      hint    = 'select * from app.job_run_transitions lists the changes that a run may make.';
  end if;
  if old.state = 'DEAD_LETTER' and (new.actor is null or new.replay_count <> old.replay_count + 1) then
    raise exception using
      errcode = 'JB202',
      message = 'job_transition_refused',
      detail  = pg_catalog.jsonb_build_object('run_id', old.id, 'from', old.state, 'to', new.state),
      hint    = 'A dead letter comes back by ops.job_replay alone, which says who wants it and why.';
  end if;
  return new;
end
$$;

comment on function app_private.tg_job_runs__transition is
  'Refuses a change of state that is not a row of app.job_run_transitions, and a replay by nobody. Raises JB202.';

create or replace trigger _100_transition
  before update on app.job_runs
  for each row when (old.state is distinct from new.state)
  execute function app_private.tg_job_runs__transition();
