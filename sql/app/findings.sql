create table if not exists app.findings (
  tenant_id        uuid        not null,
  id               uuid        not null default app_private.uuid_v7(),
  fingerprint      text        not null,
  detector         text        not null,
  detector_version integer     not null,
  scope            jsonb       not null,
  severity         text        not null,
  state            text        not null default 'open',
  currency         text        not null,
  monthly_saving   numeric,
  saving_basis     text,
  confidence       text        not null,
  rank             integer     not null default 0,
  evidence         jsonb       not null,
  slots            jsonb       not null,
  headline         text        not null,
  why              text        not null,
  caveats          text[]      not null default '{}',
  remediation_code text        not null,
  narrated_by      text        not null default 'template',
  run_id           uuid        not null,
  occurrences      integer     not null default 1,
  first_seen_at    timestamptz not null default now(),
  last_seen_at     timestamptz not null default now(),
  resolved_at      timestamptz,

  constraint findings_pkey primary key (tenant_id, id),
  constraint findings_fingerprint_once unique (tenant_id, fingerprint),
  constraint findings_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint findings_severity_known check (severity in ('info', 'low', 'medium', 'high', 'critical')),
  constraint findings_state_known
    check (state in ('open', 'acknowledged', 'snoozed', 'dismissed', 'resolved')),
  constraint findings_resolved_at_iff_resolved check ((state = 'resolved') = (resolved_at is not null)),
  constraint findings_saving_positive_or_unknown check (monthly_saving > 0),
  constraint findings_saving_basis_iff_saving check (
    (monthly_saving is null) = (saving_basis is null) and saving_basis in ('measured', 'modelled')),
  constraint findings_confidence_known check (confidence in ('low', 'medium', 'high')),
  constraint findings_narrated_by_known check (narrated_by in ('model', 'template')),
  constraint findings_texts_bounded
    check (length(headline) between 1 and 200 and length(why) between 1 and 1000)
);

create index if not exists findings_state_rank_idx on app.findings (tenant_id, state, rank);

comment on table app.findings is
  'What the detectors found. The same finding seen again is the same row; every number in it is SQL''s.';
comment on column app.findings.tenant_id is 'Whose costs it is about.';
comment on column app.findings.id is 'The finding.';
comment on column app.findings.fingerprint is 'Detector and scope: stable from run to run.';
comment on column app.findings.detector is 'The SQL function app_private.detect_<detector> found it.';
comment on column app.findings.detector_version is 'Rises when the rule of the detector changes.';
comment on column app.findings.scope is 'Where: provider, sub-account, service, region, tag.';
comment on column app.findings.severity is 'info, low, medium, high or critical; from money and certainty.';
comment on column app.findings.state is
  'open, acknowledged, snoozed, dismissed, or resolved when the detector no longer sees it.';
comment on column app.findings.currency is 'The currency of every amount of this finding.';
comment on column app.findings.monthly_saving is
  'What a month of it costs too much, in currency; null where that is not known, never 0.';
comment on column app.findings.saving_basis is
  'measured from the bill, or modelled by an assumption that evidence names; null without a saving.';
comment on column app.findings.confidence is 'low where doubtful lines were summed.';
comment on column app.findings.rank is '1 is the first to look at.';
comment on column app.findings.evidence is 'The numbers behind it, and the query that gives them again.';
comment on column app.findings.slots is 'Texts for the {{slots}} of headline, why and caveats.';
comment on column app.findings.headline is 'One sentence; numbers only as {{slots}}.';
comment on column app.findings.why is 'Why it matters; numbers only as {{slots}}.';
comment on column app.findings.caveats is 'What may be wrong with it; numbers only as {{slots}}.';
comment on column app.findings.remediation_code is 'What to do, from a closed list.';
comment on column app.findings.narrated_by is 'model, or template: SQL''s own words.';
comment on column app.findings.run_id is 'The run that saw it last.';
comment on column app.findings.occurrences is 'How many runs saw it.';
comment on column app.findings.first_seen_at is 'When it was first found.';
comment on column app.findings.last_seen_at is 'When it was last found.';
comment on column app.findings.resolved_at is 'When the detector no longer saw it; null while it stands.';

call app_private.isolate('app.findings', for_system => true);
call app_private.fence('app.findings');
grant select on app.findings to holdfast_system;
