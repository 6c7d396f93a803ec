set local role holdfast_system;

create or replace function app.job_metrics() returns table (name text, labels jsonb, value double precision)
language plpgsql
stable
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
begin
  return query
  with gauges as materialized (select * from app_private.job_gauges),
  cohorts as (
    select g.kind, g.cohort, pg_catalog.jsonb_build_object('job_type', g.kind, 'cohort', g.cohort) as labels,
           max(g.pending_seconds) as pending, max(g.running_seconds) as running, max(g.running_ratio) as ratio
    from gauges as g
    group by g.kind, g.cohort
  )
  select 'holdfast_job_runs',
         pg_catalog.jsonb_build_object('job_type', k.kind, 'cohort', c.tier, 'state', s.state),
         coalesce(g.runs, 0)::double precision
  from app.job_kinds as k
  cross join app.tiers as c
  cross join unnest(array['parked', 'admitted', 'later', 'running', 'retrying', 'dead_letter']) as s (state)
  left join gauges as g on g.kind = k.kind and g.cohort = c.tier and g.state = s.state
  union all
  select 'holdfast_job_oldest_pending_seconds', c.labels, c.pending::double precision from cohorts as c
  union all
  select 'holdfast_job_oldest_running_seconds', c.labels, c.running::double precision from cohorts as c
  union all
  select 'holdfast_job_oldest_running_ratio', c.labels, c.ratio::double precision from cohorts as c
  union all
  select 'holdfast_job_lease_margin_seconds', pg_catalog.jsonb_build_object('job_type', g.kind),
         min(g.lease_seconds)::double precision
  from gauges as g
  where g.state = 'running'
  group by g.kind
  union all
  select 'holdfast_queue_tokens', '{}', app_private.tokens_count(100000)
  union all
  select t.name, t.labels, t.value from app_private.turn_gauges as t
  union all
  select u.name, u.labels, u.value from app_private.upkeep_gauges as u
  union all
  select p.name, p.labels, p.value from app_private.replay_gauges as p;
end
$$;

comment on function app.job_metrics is
  'What a scrape shows of the database, among all tenants and naming none: runs by kind, cohort and state, ages in seconds, '
  'tokens, lateness of the scheduler, fairness, upkeep, replays. Counts no further than 100000 of a state.';

grant execute on function app.job_metrics to holdfast_metrics, holdfast_worker, holdfast_ops;

set local role holdfast_owner;
