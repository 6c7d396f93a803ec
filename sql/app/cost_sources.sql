create table if not exists app.cost_sources (
  tenant_id    uuid        not null,
  source       text        not null,
  path         text        not null,
  version      bigint      not null default 1,
  last_digest  text,
  last_import_id uuid,
  last_import_at timestamptz,
  created_at   timestamptz not null default now(),

  constraint cost_sources_pkey primary key (tenant_id, source),
  constraint cost_sources_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint cost_sources_source_length check (length(source) between 1 and 100),
  constraint cost_sources_path_absolute
    check (path ~ '^/' and length(path) <= 1000 and path !~ '[[:cntrl:]]'),
  constraint cost_sources_version_positive check (version >= 1),
  constraint cost_sources_digest_hex check (last_digest ~ '^[0-9a-f]{64}$')
);

comment on table app.cost_sources is
  'Where a tenant''s cost files are found by the workers: the kind cost_import reads them at each turn, when they have '
  'changed. ops.cost_source_set changes the rows.';
comment on column app.cost_sources.tenant_id is 'Whose costs they are.';
comment on column app.cost_sources.source is 'The source of the imports; a file replaces the months of its own source.';
comment on column app.cost_sources.path is 'The file, as every worker sees it: an absolute path.';
comment on column app.cost_sources.version is 'Rises by one with each change by a person.';
comment on column app.cost_sources.last_digest is 'SHA-256 of the file that was last imported, in hex.';
comment on column app.cost_sources.last_import_id is 'Its import; see app.cost_imports.';
comment on column app.cost_sources.last_import_at is 'When it was imported.';
comment on column app.cost_sources.created_at is 'When the source was configured.';

call app_private.isolate('app.cost_sources', for_system => true);
grant select, insert, update, delete on app.cost_sources to holdfast_system;
