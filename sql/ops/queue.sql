set local role holdfast_system;

create or replace view ops.queue as
with live as (
  select r.kind,
         count(*) filter (where r.state = 'RUNNING') as running,
         count(*) filter (where r.state <> 'RUNNING' and r.available_at <= pg_catalog.now()
                            and r.token_at is not null) as admitted,
         count(*) filter (where r.state <> 'RUNNING' and r.available_at <= pg_catalog.now()
                            and r.token_at is null) as parked,
         count(*) filter (where r.state = 'FAILED' and r.available_at > pg_catalog.now()) as retrying,
         count(*) filter (where r.state = 'PENDING' and r.available_at > pg_catalog.now()) as later,
         count(distinct r.tenant_id) as tenants,
         min(r.available_at) filter (where r.state <> 'RUNNING') as oldest
  from app.job_runs as r
  where r.state in ('PENDING', 'RUNNING', 'FAILED')
  group by r.kind
), dead as (
  select r.kind, count(*) as runs
  from app.job_runs as r
  where r.state = 'DEAD_LETTER' and r.discarded_at is null
  group by r.kind
)
select pg_catalog.left(k.kind, 20) as kind,
       coalesce(l.parked, 0) as parked, coalesce(l.admitted, 0) as admitted,
       coalesce(l.running, 0) as running, coalesce(l.retrying, 0) as retrying, coalesce(l.later, 0) as later,
       coalesce(d.runs, 0) as dead, coalesce(l.tenants, 0) as tenants,
       app_private.ago(case when l.oldest <= pg_catalog.now() then pg_catalog.now() - l.oldest end) as waits,
       app_private.ago(pg_catalog.now() - k.paused_at) as paused
from app.job_kinds as k
left join live as l on l.kind = k.kind
left join dead as d on d.kind = k.kind
order by k.slot_order, k.kind;

comment on view ops.queue is
  'Each kind of run in one line. parked: due, until its tenant has a place; admitted: its token is in the queue; retrying: '
  'waits after a failure; later: due at a later moment; dead: dead letters that wait for a person; waits: how long the oldest '
  'due run has; paused: for how long.';

grant select on ops.queue to holdfast_ops;

set local role holdfast_owner;
