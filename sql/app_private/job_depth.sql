create or replace function app_private.job_depth(kind app.job_kinds, weight numeric) returns integer
language sql
immutable
parallel safe
return least(app_private.job_window((kind).max_running, weight), case
  when (kind).rate_per_minute is not null
  then greatest((kind).rate_burst, pg_catalog.ceil((kind).rate_per_minute / 6.0)) end)::integer;

comment on function app_private.job_depth is
  'How many places in the queue the runs of one tenant and kind have: the window, and of a kind with a rate no more than '
  'ten seconds'' worth of starts, for more would only wait there.';

grant execute on function app_private.job_depth to holdfast_system, holdfast_ops;
