create table if not exists app.cost_imports (
  tenant_id     uuid        not null,
  id            uuid        not null default app_private.uuid_v7(),
  source        text        not null,
  file_name     text        not null,
  focus_version text        not null,
  status        text        not null default 'LOADING',
  line_count    bigint      not null default 0,
  flagged_count bigint      not null default 0,
  flags         jsonb       not null default '{}',
  error         jsonb,
  started_at    timestamptz not null default now(),
  finished_at   timestamptz,
  swept_at      timestamptz,

  constraint cost_imports_pkey primary key (tenant_id, id),
  constraint cost_imports_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint cost_imports_status_known
    check (status in ('LOADING', 'LOADED', 'PUBLISHED', 'SUPERSEDED', 'FAILED')),
  constraint cost_imports_finished_at_iff_ended
    check ((status in ('LOADING', 'LOADED')) = (finished_at is null)),
  constraint cost_imports_error_iff_failed check ((status = 'FAILED') = (error is not null)),
  constraint cost_imports_counts_not_negative check (line_count >= 0 and flagged_count >= 0),
  constraint cost_imports_texts_bounded
    check (length(source) between 1 and 100 and length(file_name) between 1 and 255)
);

create index if not exists cost_imports_status_started_at_idx
  on app.cost_imports (status, started_at) where swept_at is null;

comment on table app.cost_imports is
  'Each cost file that was read: whole and published, or refused. Its lines are seen only while a period points to it.';
comment on column app.cost_imports.tenant_id is 'Whose costs they are.';
comment on column app.cost_imports.id is 'The import.';
comment on column app.cost_imports.source is
  'Where the file came from; a file replaces the billing periods of its own source only.';
comment on column app.cost_imports.file_name is 'The name of the file, without its folder.';
comment on column app.cost_imports.focus_version is 'The FOCUS version whose columns the file has.';
comment on column app.cost_imports.status is
  'LOADING, LOADED (rolled up), PUBLISHED, SUPERSEDED (no period points to it) or FAILED.';
comment on column app.cost_imports.line_count is 'Lines that were read.';
comment on column app.cost_imports.flagged_count is 'Lines with at least one data-quality flag.';
comment on column app.cost_imports.flags is 'How many lines have each flag.';
comment on column app.cost_imports.error is 'Why it failed: file, line, column.';
comment on column app.cost_imports.started_at is 'When reading began.';
comment on column app.cost_imports.finished_at is 'When it was published or failed.';
comment on column app.cost_imports.swept_at is 'When the lines of an import that nobody sees were removed.';

call app_private.isolate('app.cost_imports', for_system => true);
call app_private.fence('app.cost_imports');
grant select, update on app.cost_imports to holdfast_system;
