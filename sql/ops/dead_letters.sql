set local role holdfast_system;

create or replace view ops.dead_letters as
select t.name as tenant, r.kind, app_private.ago(now() - r.finished_at) as since, r.error_code,
       r.attempt || '/' || r.failure_count || '/' || r.crash_count as tries, left(r.error, 14) as error,
       r.id as run
from app.job_runs as r
join app.tenants as t on t.tenant_id = r.tenant_id
where r.state = 'DEAD_LETTER' and r.discarded_at is null
order by r.finished_at desc;

comment on view ops.dead_letters is
  'The runs that failed for good and wait for a person, newest first; since is how long ago, tries its attempts, failures and crashes: ops.job_show has the story of one, ops.job_replay tries it again, '
  'ops.job_discard puts it aside.';

grant select on ops.dead_letters to holdfast_ops;

set local role holdfast_owner;
