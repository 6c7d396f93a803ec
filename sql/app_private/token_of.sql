create or replace function app_private.token_of(run app.job_runs, weight numeric) returns app_private.token
language sql
stable
-- One expression: the planner puts it in the place of the call.
return row(run.tenant_id, run.id, run.attempt, run.available_at,
  least(32000, run.token_rank * 10 / weight + case
      when run.slot is null or run.available_at < pg_catalog.now() - interval '5 minutes' then 0
      else 10 end)::smallint
)::app_private.token;

comment on function app_private.token_of is
  'The token of a run. Its priority is start-time fair queueing with the rank of the run among its tenant''s admitted ones '
  'for virtual time: rank x 10 / weight of the tier; what the scheduler made goes one rank behind what someone waits for, '
  'for five minutes at most.';

grant execute on function app_private.token_of to holdfast_system;
