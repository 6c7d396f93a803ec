set local role holdfast_system;

create or replace view app_private.slot_waits as
select r.tenant_id, r.slot, r.id as run_id, r.kind as after, n.kind, r.created_at as since
from app.job_runs as r
join app.job_kinds as k on k.kind = r.kind
join app.job_kinds as n on n.slot_order > k.slot_order
where r.slot is not null and r.state in ('PENDING', 'RUNNING', 'FAILED')
  and r.cancel_requested_at is null
  and (r.replay_count = 0 or r.slot > extract(epoch from pg_catalog.now() - interval '1 day'))
  and not exists (
    select from app.job_slots as s where s.tenant_id = r.tenant_id and s.kind = n.kind and s.slot = r.slot)
order by r.slot, n.slot_order;

comment on view app_private.slot_waits is
  'The kinds that follow in the turns that are under way, and the run that has not ended before each: they are no runs yet.';

set local role holdfast_owner;
