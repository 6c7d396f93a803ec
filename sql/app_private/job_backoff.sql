create or replace function app_private.job_backoff(failure_count integer, base_ms integer, cap_ms integer)
returns interval
language sql
volatile
set search_path = ''
as $$
  -- The exponent is bounded before it is used: 2^n of a long-failing run would overflow.
  select least(cap_ms, base_ms * 2.0 ^ least(failure_count - 1, 30))
    * (0.5 + pg_catalog.random()) * interval '1 millisecond'
$$;

comment on function app_private.job_backoff is
  'The wait before a run is tried again: base x 2^(failures - 1), at most cap, times 0.5 to 1.5 so that runs that '
  'failed together do not come back together.';

grant execute on function app_private.job_backoff to holdfast_system;
