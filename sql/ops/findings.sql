set local role holdfast_system;

create or replace view ops.findings as
select f.tenant, f.severity, f.saving, f.cur, f.headline, f.why, f.detector, f.confidence, f.rank,
       f.state, f.narrated_by, f.evidence, f.first_seen_at, f.last_seen_at, f.id
from ops.findings_all as f
where f.state in ('open', 'acknowledged');

comment on view ops.findings is
  'The findings that stand, of every tenant, best first: by severity, then by what a month of it costs too much.';

grant select on ops.findings to holdfast_ops;

set local role holdfast_owner;
