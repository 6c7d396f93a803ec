create table if not exists app.retentions (
  table_name text     not null,
  keep       interval not null,

  constraint retentions_pkey primary key (table_name),
  -- What was paid and what was held for it is never dropped, whoever asks.
  constraint retentions_table_known check (table_name in ('job_runs', 'job_run_events', 'events')),
  constraint retentions_keep_sane check (keep >= interval '31 days')
);

comment on table app.retentions is
  'How long the rows of a partitioned table are kept: app.maintain drops a month when all of it is older. A table that is '
  'not here is kept for ever. ops.retention_set changes the rows.';
comment on column app.retentions.table_name is
  'A table of the schema app that is partitioned by month, and that may be forgotten.';
comment on column app.retentions.keep is 'The age after which a row may go, counted from when it was made.';

insert into app.retentions (table_name, keep)
values
  ('job_runs', interval '90 days'), ('job_run_events', interval '90 days'), ('events', interval '90 days')
on conflict on constraint retentions_pkey do nothing;

grant select, update on app.retentions to holdfast_system;
