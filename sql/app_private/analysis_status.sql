create or replace function app_private.analysis_status(run_state text) returns text
language sql
immutable
parallel safe
return case run_state when 'FAILED' then 'PENDING' when 'DEAD_LETTER' then 'FAILED' else run_state end;

comment on function app_private.analysis_status is
  'What the state of a run means for who asked: a run that is tried again is PENDING, a dead letter is FAILED.';

grant execute on function app_private.analysis_status to holdfast_system;
