create table if not exists app.analyses (
  tenant_id       uuid        not null,
  id              uuid        not null,
  narrated_by     text        not null,
  fallback_reason text,
  provider        text,
  model           text,
  prompt_hash     text,
  summary         text,
  finding_count   integer     not null,
  created_at      timestamptz not null default now(),
  without         text[]      not null default '{}',

  constraint analyses_pkey primary key (tenant_id, id),
  constraint analyses_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint analyses_narrated_by_known check (narrated_by in ('model', 'template')),
  constraint analyses_fallback_reason_iff_template
    check ((narrated_by = 'template') = (fallback_reason is not null)),
  constraint analyses_texts_bounded check (length(summary) <= 2000 and length(fallback_reason) <= 100)
);

comment on table app.analyses is
  'How each analysis was worded. An analysis is a run of the kind analysis, and has its id; '
  'a row is written when it completes.';
comment on column app.analyses.tenant_id is 'Whose costs were analysed.';
comment on column app.analyses.id is 'The analysis, which is its run.';
comment on column app.analyses.narrated_by is 'model, or template: SQL''s own words.';
comment on column app.analyses.fallback_reason is 'Why the template was used; null where a model worded it.';
comment on column app.analyses.provider is 'Who answered.';
comment on column app.analyses.model is 'The model that was asked.';
comment on column app.analyses.prompt_hash is 'SHA-256 of the prompt, in hex; the prompt itself is not kept.';
comment on column app.analyses.summary is 'What the model says of all findings together.';
comment on column app.analyses.finding_count is 'How many findings were open when it ended.';
comment on column app.analyses.created_at is 'When it completed.';
comment on column app.analyses.without is
  'The kinds of its slot that had failed for good before it: it stands on what was known before them.';

call app_private.isolate('app.analyses', for_system => true);
call app_private.fence('app.analyses');
grant select on app.analyses to holdfast_system;
