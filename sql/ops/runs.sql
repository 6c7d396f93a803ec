set local role holdfast_system;

create or replace view ops.runs as
select t.name as tenant, r.kind, r.state, r.attempt, r.error_code,
       date_trunc('second', coalesce(r.finished_at, r.started_at, r.available_at)) as at,
       round(extract(epoch from r.finished_at - r.started_at), 1) as seconds, r.error, r.id, r.tenant_id
from app.job_runs as r
join app.tenants as t on t.tenant_id = r.tenant_id
order by r.id desc;

comment on view ops.runs is 'Every run, newest first; app.job_run_events has each step of it.';

grant select on ops.runs to holdfast_ops;

set local role holdfast_owner;
