set local role holdfast_system;

create or replace view ops.stuck as
with waits as (
  -- A queue that is behind is one thing, however many tenants wait in it.
  select case when w.cause = 'queued' then count(distinct w.tenant_id) || ' tenants' else min(w.tenant) end
           as tenant,
         min(w.tenant) as name, w.kind, w.cause, min(w.tier) as tier, min(w.since) as since, count(*) as runs,
         max(w.used) as used, max(w.size) as size
  from app_private.run_waits as w
  where w.since < pg_catalog.now() - interval '1 minute'
    and (w.available_at < pg_catalog.now() - interval '1 minute' or w.cause = 'no_worker_of_kind')
    and w.cause not in ('tenant_paused', 'kind_paused', 'cohort_paused', 'no_worker')
  group by w.kind, w.cause, case when w.cause <> 'queued' then w.tenant_id end
)
select s.what, pg_catalog.left(s.tenant, 20) as tenant, s.kind,
       pg_catalog.date_trunc('second', s.since) as since, s.why, s.fix
from (
  select 'no worker' as what, null as tenant, null as kind,
         (select max(w.seen_at) from app.job_workers as w) as since, 'no worker lives' as why,
         '-- npm run worker' as fix
  where not exists (select from app_private.workers_alive)
  union all
  select 'worker late', null, null, w.seen_at, w.worker || ' does not beat',
         'select * from app.workers_reap() -- once it was not heard of for 20 s; or look after pid ' || w.pid
           || ' on ' || w.host
  from app.job_workers as w
  where w.seen_at <= pg_catalog.now() - interval '11 seconds'
  union all
  select case when r.cancel_requested_at is not null then 'cancelling' else 'slow run' end, t.name, r.kind,
         coalesce(r.cancel_requested_at, r.started_at),
         concat_ws(', ',
           'runs for ' || app_private.ago(pg_catalog.now() - r.started_at) || ' of '
             || app_private.ago(k.timeout_seconds * interval '1 second'),
           'try ' || r.attempt, round(r.progress * 100) || ' % done', r.progress_text),
         pg_catalog.format(
           'select * from ops.job_cancel(%L, actor => ''…'', reason => ''…'', force => true)', r.id)
  from app.job_runs as r
  join app.tenants as t on t.tenant_id = r.tenant_id
  join app.job_kinds as k on k.kind = r.kind
  where r.state = 'RUNNING' and (r.cancel_requested_at is not null
    or r.started_at < pg_catalog.now() - 0.8 * k.timeout_seconds * interval '1 second')
  union all
  select 'waiting', w.tenant, w.kind, w.since,
         w.runs || case when w.runs = 1 then ' run: ' else ' runs: ' end
           || app_private.wait_why(w.cause, w.kind, w.tier, w.used, w.size, null, null),
         app_private.wait_fix(w.cause, w.name, w.kind, w.tier, null)
  from waits as w
  union all
  select 'dead letters', t.name, r.kind, min(r.finished_at), count(*) || ' by ' || r.error_code,
         pg_catalog.format(
           'select * from ops.job_replay(%L, actor => ''…'', reason => ''…'', dry_run => false)',
           pg_catalog.jsonb_build_object('tenant', t.name, 'kind', r.kind, 'error_code', r.error_code))
  from app.job_runs as r
  join app.tenants as t on t.tenant_id = r.tenant_id
  where r.state = 'DEAD_LETTER' and r.discarded_at is null
  group by t.name, r.kind, r.error_code
  union all
  select 'paused', t.name, null, t.jobs_paused_at, 'its tenant is paused',
         app_private.wait_fix('tenant_paused', t.name, null, null, null)
  from app.tenants as t where t.jobs_paused_at is not null
  union all
  select 'paused', null, k.kind, k.paused_at, 'the kind is paused',
         app_private.wait_fix('kind_paused', null, k.kind, null, null)
  from app.job_kinds as k where k.paused_at is not null
  union all
  select 'paused', null, null, c.paused_at, 'the cohort ' || c.tier || ' is paused',
         app_private.wait_fix('cohort_paused', null, null, c.tier, null)
  from app.tiers as c where c.paused_at is not null
  union all
  select 'schedule late', null, null, l.since,
         'the cohort ' || c.tier || ': ' || l.shards || ' shards wait for a tick',
         'select * from app.schedule_tick()'
  from app.tiers as c
  cross join lateral (
    select min(h.next_run_at) as since, count(*) as shards from app.schedules as h
    where h.tier = c.tier and h.next_run_at < pg_catalog.now() - interval '2 minutes') as l
  where l.shards > 0 and c.paused_at is null
  union all
  select 'schedule late', t.name, null, o.next_run_at, 'a turn of its own waits for a tick',
         'select * from app.schedule_tick()'
  from app.tenant_schedules as o
  join app.tenants as t on t.tenant_id = o.tenant_id and t.status = 'ACTIVE' and t.jobs_paused_at is null
  join app.tiers as c on c.tier = t.tier and c.paused_at is null
  where o.next_run_at < pg_catalog.now() - interval '2 minutes') as s
order by s.since nulls first;

comment on view ops.stuck is
  'What needs a person, with since when, why, and what to type; no row is good. A run that is cancelled, or near the end of its '
  'time; runs that wait for more than a minute; dead letters; what is paused; cohorts whose turns are 2 minutes late; workers '
  'that do not beat.';

grant select on ops.stuck to holdfast_ops;

set local role holdfast_owner;
