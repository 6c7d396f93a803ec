set local role holdfast_system;

create or replace view ops.run_events as
select t.name as tenant, e.created_at, e.from_state, e.to_state, e.attempt, e.actor, e.reason, e.run_id
from app.job_run_events as e
join app.tenants as t on t.tenant_id = e.tenant_id
order by e.id;

comment on view ops.run_events is 'Each change of state of each run, oldest first; filter it by the id of ops.jobs.';

grant select on ops.run_events to holdfast_ops;

set local role holdfast_owner;
