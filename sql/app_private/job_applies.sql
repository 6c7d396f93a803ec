create or replace function app_private.job_applies(kind text) returns boolean
language sql
immutable
parallel safe
return kind = 'analysis';

comment on function app_private.job_applies is
  'Whether the result of a kind changes rows of its tenant when the run completes, as app_private.job_apply does: then it is '
  'completed alone, with a ticket.';

grant execute on function app_private.job_applies to holdfast_system;
