create or replace function app_private.job_window(max_running integer, weight numeric) returns integer
language sql
immutable
parallel safe
return case when max_running is null then 100
  else greatest(1, pg_catalog.floor(max_running * weight))::integer end;

comment on function app_private.job_window is
  'How many runs of one tenant and kind are admitted to the queue at a time: those that may run at once, or 100 where any '
  'number may. So a tenant with many waiting runs holds few places before the others.';

grant execute on function app_private.job_window to holdfast_system, holdfast_ops;
