set local role holdfast_system;

create or replace view app_private.replay_gauges as
select 'holdfast_job_replays' as name, pg_catalog.jsonb_build_object('job_type', k.kind) as labels,
       coalesce(sum(r.replay_count), 0)::double precision as value
from app.job_kinds as k
left join app.job_runs as r on r.kind = k.kind and r.replay_count > 0
group by k.kind;

comment on view app_private.replay_gauges is
  'How often the runs of each kind were replayed, of those that are kept; a month that is dropped takes its own along.';

set local role holdfast_owner;
