create or replace function app_private.wait_fix(cause text, tenant text, kind text, tier text, run_id uuid)
returns text
language sql
stable
parallel safe
return case cause
  when 'suspended' then '-- nothing of a suspended tenant starts'
  when 'tenant_paused' then
    pg_catalog.format('select * from ops.job_resume(tenant => %L, reason => ''…'')', tenant)
  when 'kind_paused' then
    pg_catalog.format('select * from ops.job_resume(kind => %L, reason => ''…'')', kind)
  when 'cohort_paused' then
    pg_catalog.format('select * from ops.job_resume(cohort => %L, reason => ''…'')', tier)
  when 'retry' then pg_catalog.format('select * from ops.job_show(%L)', run_id)
  when 'rate' then pg_catalog.format(
    'select * from ops.job_kind_set(%L, rate_per_minute => …, reason => ''…'')', kind)
  when 'places' then pg_catalog.format(
    'select * from ops.job_kind_set(%L, max_running => …, reason => ''…'')', kind)
  when 'no_worker' then '-- npm run worker'
  when 'no_worker_of_kind' then
    '-- npm run worker, of a version that has a task for it; select * from ops.workers'
  when 'unadmitted' then 'select * from app.job_admit()'
  when 'token_lost' then 'select * from app.tokens_repair()'
  when 'queued' then
    '-- npm run worker, once more, or a higher WORKER_CONCURRENCY; select * from ops.workers' end;

comment on function app_private.wait_fix is
  'What to type where a run waits, by the cause that app_private.run_waits found; null where nothing is to be done. In a '
  'comment: on the machine of a worker.';

grant execute on function app_private.wait_fix to holdfast_system, holdfast_ops;
