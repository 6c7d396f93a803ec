create table if not exists app.job_kinds (
  kind                text    not null,
  timeout_seconds     integer not null default 300,
  max_retries         integer not null default 3,
  backoff_base_ms     integer not null default 2000,
  backoff_cap_ms      integer not null default 3600000,
  non_retryable_codes text[]  not null default '{}',
  description         text    not null,
  slot_order          smallint,
  max_running         integer,
  max_waiting         integer not null default 100000,
  rate_per_minute     integer,
  rate_burst          integer not null default 1,
  tenant_enqueues     boolean not null default false,
  input_schema        jsonb   not null default '{"type": "object"}',
  paused_at           timestamptz,

  constraint job_kinds_pkey primary key (kind),
  constraint job_kinds_kind_printable check (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
  constraint job_kinds_timeout_seconds_sane check (timeout_seconds between 1 and 86400),
  constraint job_kinds_max_retries_sane check (max_retries between 0 and 100),
  constraint job_kinds_backoff_sane check (backoff_base_ms > 0 and backoff_cap_ms >= backoff_base_ms),
  constraint job_kinds_slot_order_once unique (slot_order),
  constraint job_kinds_max_running_sane check (max_running between 1 and 1000),
  constraint job_kinds_max_waiting_sane check (max_waiting between 1 and 10000000),
  constraint job_kinds_rate_sane
    check (rate_per_minute between 1 and 60000 and rate_burst between 1 and 10000),
  constraint job_kinds_input_schema_object check (jsonb_typeof(input_schema) = 'object')
);

comment on table app.job_kinds is
  'What kinds of job there are, how long one may run, how it is tried again, and how many a tenant may have at once. '
  'ops.job_kind_set changes the rows.';
comment on column app.job_kinds.kind is 'The name; tasks/ has a file for each.';
comment on column app.job_kinds.timeout_seconds is 'How long one attempt may take.';
comment on column app.job_kinds.max_retries is 'Attempts after the first failure; then the run is a dead letter.';
comment on column app.job_kinds.backoff_base_ms is 'Wait after the first failure; it doubles with each.';
comment on column app.job_kinds.backoff_cap_ms is
  'The wait stops doubling here; jitter makes it half to one and a half of it.';
comment on column app.job_kinds.non_retryable_codes is 'Error codes that make a run a dead letter at once.';
comment on column app.job_kinds.description is 'What it does.';
comment on column app.job_kinds.slot_order is
  'Its place among the kinds of a slot: each begins when the one before it has ended. Null: the scheduler makes none.';
comment on column app.job_kinds.max_running is
  'Runs of one tenant at a time, times the weight of its tier; null: as many as there are workers.';
comment on column app.job_kinds.max_waiting is 'Runs of one tenant that may wait; one more is refused.';
comment on column app.job_kinds.rate_per_minute is 'Starts per tenant and minute; null: any number.';
comment on column app.job_kinds.rate_burst is 'How many of them may start at once after a pause.';
comment on column app.job_kinds.tenant_enqueues is 'Whether a tenant may ask for one; people in psql always may.';
comment on column app.job_kinds.input_schema is
  'JSON Schema of the input, in the part of it that app_private.json_fault knows.';
comment on column app.job_kinds.paused_at is 'Since when no run of it starts; null: it is not paused.';

insert into app.job_kinds (
  kind, timeout_seconds, max_retries, non_retryable_codes, slot_order, max_running, max_waiting,
  tenant_enqueues, input_schema, description)
values
  ('cost_import', 1800, 3, array['focus_invalid', 'import_invalid'], 10, 1, 10, true,
   '{"type": "object", "properties": {"missed_slots": {"type": "integer", "minimum": 0, "maximum": 1000000}},
     "additionalProperties": false}',
   'Imports the cost files of a tenant''s sources, where they have changed.'),
  ('detection', 120, 3, '{}', 20, 1, 10, true,
   '{"type": "object", "properties": {
       "without": {"type": "array", "items": {"type": "string", "maxLength": 63}, "maxItems": 10},
       "missed_slots": {"type": "integer", "minimum": 0, "maximum": 1000000}},
     "additionalProperties": false}',
   'Runs the detectors over the costs of a tenant.'),
  ('analysis', 120, 3, array['analysis_invalid'], 30, 1, 100, true,
   '{"type": "object", "properties": {
       "without": {"type": "array", "items": {"type": "string", "maxLength": 63}, "maxItems": 10},
       "missed_slots": {"type": "integer", "minimum": 0, "maximum": 1000000}},
     "additionalProperties": false}',
   'Has a model word what the detectors found.')
on conflict on constraint job_kinds_pkey do nothing;

grant select on app.job_kinds to holdfast_system, holdfast_tenant;
grant insert, update on app.job_kinds to holdfast_system;
