create or replace function app_private.starts_take(judged app_private.job_verdict[], at timestamptz)
returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
begin
  update app.job_gates as g
  set starts_left = app_private.starts_left(
        g.starts_left, g.refilled_at, at, k.rate_per_minute, k.rate_burst) - s.starts,
      refilled_at = greatest(at, g.refilled_at)
  from (select j.tenant_id, j.kind, count(*) as starts
        from unnest(judged) as j where j.verdict = 'start' group by j.tenant_id, j.kind) as s
  join app.job_kinds as k on k.kind = s.kind and k.rate_per_minute is not null
  where g.tenant_id = s.tenant_id and g.kind = s.kind;
end
$$;

comment on function app_private.starts_take is
  'Takes what starts from the buckets of the kinds that have a rate. Under the locks of job_gates_lock.';

grant execute on function app_private.starts_take to holdfast_system;
