--! Previous: sha1:424dcfdc2272dc40f525255e68a66cab73d930d8
--! Hash: sha1:3bf34156393c03fd5872d18429fa0a65cd599f34
--! Message: jobs that cannot hang, a scheduler that cannot deadlock

-- Jobs that cannot hang, and a scheduler that cannot deadlock.

-- Columns and constraints that tables have gained; the files below say what they mean.
alter table app.tiers
  add column if not exists weight numeric not null default 1,
  add column if not exists missed text not null default 'latest',
  add column if not exists missed_max integer not null default 10,
  add column if not exists skip_after interval,
  add column if not exists overlap text not null default 'skip',
  add column if not exists paused_at timestamptz,
  drop constraint tiers_every_positive,
  add constraint tiers_every_positive check (every >= interval '1 minute' and every <= interval '31 days'),
  add constraint tiers_every_without_months check (extract(month from every) = 0 and extract(year from every) = 0),
  add constraint tiers_weight_sane check (weight between 0.1 and 100),
  add constraint tiers_missed_known check (missed in ('latest', 'all', 'skip')),
  add constraint tiers_missed_max_sane check (missed_max between 1 and 1000),
  add constraint tiers_skip_after_iff_skip
    check ((missed = 'skip') = (skip_after is not null) and skip_after > interval '0'),
  add constraint tiers_overlap_known check (overlap in ('skip', 'queue', 'cancel')),
  add constraint tiers_all_are_queued check (missed <> 'all' or overlap = 'queue');
update app.tiers set weight = 2 where tier = 'HIGH_VALUE';
update app.tiers set weight = 0.5, description = 'Starter and free plans, and no activity for a week.'
where tier = 'DORMANT';

alter table app.job_kinds
  add column if not exists slot_order smallint,
  add column if not exists max_running integer,
  add column if not exists max_waiting integer not null default 100000,
  add column if not exists rate_per_minute integer,
  add column if not exists rate_burst integer not null default 1,
  add column if not exists tenant_enqueues boolean not null default false,
  add column if not exists input_schema jsonb not null default '{"type": "object"}',
  add column if not exists paused_at timestamptz,
  add constraint job_kinds_kind_printable check (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
  add constraint job_kinds_slot_order_once unique (slot_order),
  add constraint job_kinds_max_running_sane check (max_running between 1 and 1000),
  add constraint job_kinds_max_waiting_sane check (max_waiting between 1 and 10000000),
  add constraint job_kinds_rate_sane check (rate_per_minute between 1 and 60000 and rate_burst between 1 and 10000),
  add constraint job_kinds_input_schema_object check (jsonb_typeof(input_schema) = 'object');
update app.job_kinds
set slot_order = 30, max_running = 1, max_waiting = 100, tenant_enqueues = true,
    input_schema = '{"type": "object", "properties": {
       "without": {"type": "array", "items": {"type": "string", "maxLength": 63}, "maxItems": 10},
       "missed_slots": {"type": "integer", "minimum": 0, "maximum": 1000000}},
     "additionalProperties": false}',
    description = 'Has a model word what the detectors found.'
where kind = 'analysis';

-- What every claim and every tick writes has no foreign key to a row that all of them share.
alter table app.job_runs
  alter column token_at drop not null,
  alter column token_at drop default,
  add column if not exists token_rank smallint not null default 0,
  add column if not exists progress real,
  add column if not exists progress_text text,
  add column if not exists cancel_requested_at timestamptz,
  add column if not exists discarded_at timestamptz,
  add column if not exists replay_count integer not null default 0,
  add column if not exists actor text,
  add column if not exists reason text,
  drop constraint job_runs_kind_fkey,
  drop constraint job_runs_tenant_id_fkey,
  drop constraint job_runs_counts_sane,
  add constraint job_runs_counts_sane
    check (attempt >= 0 and failure_count >= 0 and crash_count >= 0 and replay_count >= 0),
  add constraint job_runs_token_rank_positive check (token_rank >= 0),
  add constraint job_runs_progress_sane check (progress between 0 and 1 and length(progress_text) <= 200),
  add constraint job_runs_running_has_token check (state <> 'RUNNING' or token_at is not null),
  add constraint job_runs_discarded_iff_dead check (discarded_at is null or state = 'DEAD_LETTER'),
  add constraint job_runs_reason_bounded check (length(actor) <= 100 and length(reason) <= 500);
drop index if exists app.schedules_next_run_at_idx, app.job_runs_live_idx, app.job_runs_available_at_idx, app.job_runs_kind_idx, app.job_slots_kind_idx;
alter table app.job_run_events drop constraint job_run_events_tenant_id_fkey;
alter table app.job_slots drop constraint job_slots_tenant_id_fkey, drop constraint job_slots_kind_fkey;
alter table app.analyses add column if not exists without text[] not null default '{}';

-- Slots were numbers of periods and are moments: those of before are of no use.
call app_private.force_off('app.job_slots');
delete from app.job_slots;
call app_private.force_on('app.job_slots');
alter table app.schedules
  drop constraint schedules_shard_known,
  add constraint schedules_shard_known check (shard between 0 and 255),
  add column if not exists open_slot bigint,
  add column if not exists resume_after uuid,
  add column if not exists missed_slots bigint not null default 0,
  add constraint schedules_resume_iff_open check ((open_slot is null) = (resume_after is null)),
  add constraint schedules_missed_slots_positive check (missed_slots >= 0);
update app.schedules set last_slot = null, next_run_at = now();
update app.job_run_transitions set meaning = 'The attempt failed for good, or a person cancelled it.'
where (from_state, to_state) = ('RUNNING', 'DEAD_LETTER');
update app.job_run_transitions set meaning = 'A person cancelled it.'
where (from_state, to_state) = ('FAILED', 'DEAD_LETTER');

-- Functions whose arguments or answers have changed.
drop function if exists app_private.tokens_wanted(uuid[], uuid[]);
drop function if exists app_private.tokens_add(uuid[], uuid[]);
drop function if exists app_private.slot_of(timestamptz, interval, smallint);
drop function if exists app.job_claim(uuid, text, uuid, text);
drop function if exists app.tokens_repair(integer);
drop function if exists app.schedule_tick(integer);
drop function if exists app.job_reap(integer);
drop function if exists app_private.tenant_check(text, text, text, text[]);
drop function if exists ops.tenant_add(text, text, numeric, text, text, text[], boolean);
drop function if exists app.maintain(integer);
drop function if exists app.analysis_detect(uuid, text, uuid, integer);
drop function if exists app.analysis_get(uuid, text, uuid);
drop function if exists app_private.narration_check(uuid, uuid, jsonb);

--! Included app_private/partitions_make.sql
create or replace function app_private.partitions_make(months_ahead integer default 3) returns integer
language plpgsql
security definer  -- the owner alone may add partitions
set search_path = ''
set timezone = 'UTC'
set lock_timeout = '3s'
as $$
declare
  v_missing record;
  v_month   timestamptz;
  v_made    integer := 0;
begin
  for v_missing in
    select c.oid::regclass as parent, array_agg(m.month_start order by m.month_start) as months
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname = 'app'
    cross join pg_catalog.generate_series(
      pg_catalog.date_trunc('month', pg_catalog.now()) - interval '1 month',
      pg_catalog.date_trunc('month', pg_catalog.now()) + pg_catalog.make_interval(months => months_ahead),
      interval '1 month') as m (month_start)
    where c.relkind = 'p'
      and pg_catalog.to_regclass(pg_catalog.format('app.%I',
            c.relname || pg_catalog.to_char(m.month_start, '"_y"YYYY"m"MM'))) is null
    group by c.oid, c.relname
    order by c.relname
  loop
    begin
      foreach v_month in array v_missing.months loop
        call app_private.partition_add(v_missing.parent, v_month);
      end loop;
      v_made := v_made + pg_catalog.cardinality(v_missing.months);
    exception
      when lock_not_available or deadlock_detected then
        raise warning 'app_private.partitions_make: % stayed locked and is left for the next time',
          v_missing.parent;
    end;
    -- A table that has its month stays locked until the end: from then on, nothing is waited for.
    if v_made > 0 then
      perform pg_catalog.set_config('lock_timeout', '100ms', true);
    end if;
  end loop;
  return v_made;
end
$$;

comment on function app_private.partitions_make is
  'Adds the missing monthly partitions, from last month to months_ahead; answers how many. A table that stays locked for '
  '3 s is left, with a warning: the others are made, and it is tried again an hour later, for they are made months ahead.';

grant execute on function app_private.partitions_make to holdfast_system;
--! EndIncluded app_private/partitions_make.sql
--! Included app_private/uuid_v7.sql
create or replace function app_private.uuid_v7() returns uuid
language sql
volatile
parallel safe
-- In hex: the millisecond in 12 digits and its fraction in 3, the version between them, and half a random UUID behind. One
-- expression that reads the clock once, so that the planner puts it in the place of the call.
return (overlay(
    pg_catalog.lpad(pg_catalog.to_hex(
      pg_catalog.floor(extract(epoch from pg_catalog.clock_timestamp()) * 4096000)::bigint), 15, '0')
    placing '7' from 13 for 0)
  || pg_catalog.right(pg_catalog.gen_random_uuid()::text, 17))::uuid;

comment on function app_private.uuid_v7 is
  'A UUID of version 7 (RFC 9562, section 5.7, with the fraction of section 6.2, method 3): it sorts by the moment it '
  'was made, to a quarter of a microsecond. PostgreSQL 15 has none of its own.';

grant execute on function app_private.uuid_v7 to holdfast_system;
--! EndIncluded app_private/uuid_v7.sql
--! Included app_private/uuid_v7_floor.sql
create or replace function app_private.uuid_v7_floor(at timestamptz) returns uuid
language sql
immutable
parallel safe
set search_path = ''
as $$
  select (pg_catalog.lpad(pg_catalog.to_hex((extract(epoch from at) * 1000)::bigint), 12, '0')
    || '0000' || '0000' || '000000000000')::uuid
$$;

comment on function app_private.uuid_v7_floor is
  'The smallest identifier that uuid_v7 could make at that moment; partition bounds and time ranges use it.';

grant execute on function app_private.uuid_v7_floor to holdfast_system, holdfast_ops;
--! EndIncluded app_private/uuid_v7_floor.sql
--! Included app/retentions.sql
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
--! EndIncluded app/retentions.sql
--! Included app_private/partition_months.sql
create or replace view app_private.partition_months as
select p.relname::text as table_name, p.oid::regclass as parent, c.oid::regclass as part,
       m.month_start, e.month_end
from pg_catalog.pg_inherits as i
join pg_catalog.pg_class as p
  on p.oid = i.inhparent and p.relkind = 'p' and p.relnamespace = 'app'::regnamespace
join pg_catalog.pg_class as c
  on c.oid = i.inhrelid and c.relnamespace = p.relnamespace and c.relname ~ '_y\d{4}m(0[1-9]|1[0-2])$'
cross join lateral (
  select pg_catalog.make_timestamptz(pg_catalog.left(pg_catalog.right(c.relname::text, 7), 4)::integer,
           pg_catalog.right(c.relname::text, 2)::integer, 1, 0, 0, 0, 'UTC') as month_start) as m
cross join lateral (
  select (m.month_start at time zone 'UTC' + interval '1 month') at time zone 'UTC' as month_end) as e
-- Only what partition_add has made, and what its name says.
where c.relname = p.relname || pg_catalog.to_char(m.month_start at time zone 'UTC', '"_y"YYYY"m"MM')
  and pg_catalog.pg_get_expr(c.relpartbound, c.oid) = pg_catalog.format('FOR VALUES FROM (%L) TO (%L)',
        app_private.uuid_v7_floor(m.month_start), app_private.uuid_v7_floor(e.month_end));

comment on view app_private.partition_months is
  'The monthly partitions, and which month (UTC) each holds. One whose name and bounds do not agree is not here.';

grant select on app_private.partition_months to holdfast_system;
--! EndIncluded app_private/partition_months.sql
--! Included app/error_codes.sql
create or replace view app.error_codes as
select e.sqlstate, e.name, e.http_status, e.meaning
from (values
  ('RL101', 'rls_enforcement_failed', 500,
   'No tenant was entered, or the ticket does not open it. Nothing was read or changed.'),
  ('TK101', 'ticket_key_not_found',   404, 'No ticket key has that number.'),
  ('TK201', 'ticket_key_last',        409, 'It is the last ticket key in use: without it, nobody could enter.'),
  ('TN101', 'tenant_not_found',       404, 'No tenant has that name or id.'),
  ('TN102', 'tenant_name_taken',      409, 'Another tenant has that name.'),
  ('TN103', 'tenant_invalid',         400, 'A name, tier or time zone is not one that a tenant may have.'),
  ('LB101', 'budget_exceeded',        402, 'The hold does not fit the budget; detail.reason says why.'),
  ('LB102', 'no_price',               402, 'No price is known for that model, so its cost has no bound.'),
  ('LB103', 'idempotency_conflict',   422, 'The key was used before, with another request.'),
  ('LB104', 'reservation_not_found',  404, 'No reservation of this tenant has that id.'),
  ('LB105', 'reservation_invalid',    400, 'A number is missing, negative or too large.'),
  ('LB201', 'reservation_closed',     409, 'The reservation has ended in another way.'),
  ('JB101', 'job_run_not_found',      404, 'No run of this tenant has that id.'),
  ('JB102', 'job_kind_unknown',       400, 'There is no such kind of job.'),
  ('JB103', 'job_queue_full',         429, 'As many runs of that kind wait as the tenant may have.'),
  ('JB104', 'job_input_invalid',      422, 'The input breaks the schema of its kind; detail says where.'),
  ('JB105', 'job_kind_not_enqueueable', 403, 'A tenant may not ask for that kind of job.'),
  ('JB201', 'job_run_fenced',         409, 'The run has gone on without this attempt; its work is rolled back.'),
  ('JB202', 'job_transition_refused', 409, 'That change of state is not in app.job_run_transitions.'),
  ('JB203', 'job_cancelled',          409, 'The end of the run was asked for while it ran.'),
  ('JB204', 'replay_superseded',      409, 'A newer turn of the same kind has completed since.'),
  ('JB205', 'job_not_dead',           409, 'The run is no dead letter, so there is nothing to replay or put aside.'),
  ('JB206', 'job_ended',              409, 'The run has ended already.'),
  ('IM101', 'import_not_found',       404, 'No import of this tenant has that id.'),
  ('IM102', 'import_invalid',         422, 'A line of the import breaks a rule of the table.'),
  ('IM103', 'import_empty',           422, 'The import has no line.'),
  ('IM201', 'import_closed',          409, 'The import has been published or has failed.'),
  ('NA101', 'analysis_not_found',     404, 'No analysis of this tenant has that id.'),
  ('NA102', 'analysis_invalid',       400, 'The wording of an analysis does not have the shape that SQL accepts.'),
  ('VR201', 'optimistic_lock_failed', 409, 'The row has changed since it was read.'),
  ('OP101', 'reason_required',        400, 'A change by a person needs a reason of at least 3 characters.'),
  ('OP102', 'argument_invalid',       400, 'An argument is outside of what the function takes.')
) as e (sqlstate, name, http_status, meaning);

comment on view app.error_codes is 'Every SQLSTATE that holdfast raises, with its fixed name and HTTP status.';
comment on column app.error_codes.sqlstate is
  'Two letters for the area, a digit for the verdict (1 refused, 2 wrong state, 3 try later), two to count.';
comment on column app.error_codes.name is 'The message of the error: logs, metrics and clients match on it.';
comment on column app.error_codes.http_status is 'The status that the HTTP endpoint answers with.';
comment on column app.error_codes.meaning is 'What happened, for a person.';

grant select on app.error_codes
  to holdfast_service, holdfast_worker, holdfast_tenant, holdfast_system, holdfast_ops;
--! EndIncluded app/error_codes.sql
--! Included app/tiers.sql
create table if not exists app.tiers (
  tier        text     not null,
  every       interval not null,
  rank        smallint not null,
  description text     not null,
  weight      numeric  not null default 1,
  missed      text     not null default 'latest',
  missed_max  integer  not null default 10,
  skip_after  interval,
  overlap     text     not null default 'skip',
  paused_at   timestamptz,

  constraint tiers_pkey primary key (tier),
  constraint tiers_every_positive check (every >= interval '1 minute' and every <= interval '31 days'),
  constraint tiers_every_without_months
    check (extract(month from every) = 0 and extract(year from every) = 0),
  constraint tiers_rank_once unique (rank),
  constraint tiers_weight_sane check (weight between 0.1 and 100),
  constraint tiers_missed_known check (missed in ('latest', 'all', 'skip')),
  constraint tiers_missed_max_sane check (missed_max between 1 and 1000),
  constraint tiers_skip_after_iff_skip
    check ((missed = 'skip') = (skip_after is not null) and skip_after > interval '0'),
  constraint tiers_overlap_known check (overlap in ('skip', 'queue', 'cancel')),
  constraint tiers_all_are_queued check (missed <> 'all' or overlap = 'queue')
);

comment on table app.tiers is
  'The cohorts of the scheduler: how often a tenant of each has its turn, and what becomes of a turn that was missed or '
  'comes too early. ops.tier_set changes the rows.';
comment on column app.tiers.tier is 'The name of the cohort.';
comment on column app.tiers.every is 'The time between two turns of one tenant.';
comment on column app.tiers.rank is 'Which tier is listed first; turns go by how long they are due.';
comment on column app.tiers.description is 'Who belongs here.';
comment on column app.tiers.weight is
  'Its share when workers are short: it scales the runs that a tenant may have at a time, and the rank of the others.';
comment on column app.tiers.missed is
  'What becomes of turns that nobody ticked for: latest makes the newest alone, all makes up to missed_max of them, skip '
  'makes the newest unless it began more than skip_after ago.';
comment on column app.tiers.missed_max is 'How many missed turns all makes up for.';
comment on column app.tiers.skip_after is 'How late a turn may start under skip; null otherwise.';
comment on column app.tiers.overlap is
  'What becomes of a turn while the tenant''s last one runs: skip passes it over, queue lets one wait (or missed_max under '
  'all), cancel ends the one before.';
comment on column app.tiers.paused_at is 'Since when the cohort has no turns; null: it is not paused.';

insert into app.tiers (tier, every, rank, description, weight)
values
  ('HIGH_VALUE', interval '1 hour',  1, 'Enterprise and pro plans.', 2),
  ('ACTIVE',     interval '3 hours', 2, 'Tenants that use the product.', 1),
  ('DORMANT',    interval '6 hours', 3, 'Starter and free plans, and no activity for a week.', 0.5)
on conflict on constraint tiers_pkey do nothing;

grant select on app.tiers to holdfast_system, holdfast_tenant;
grant update on app.tiers to holdfast_system;
--! EndIncluded app/tiers.sql
--! Included app/plans.sql
create table if not exists app.plans (
  plan          text     not null,
  tier          text     not null,
  dormant_after interval not null default interval '7 days',

  constraint plans_pkey primary key (plan),
  constraint plans_tier_fkey foreign key (tier) references app.tiers (tier) on delete restrict,
  constraint plans_dormant_after_positive check (dormant_after > interval '0')
);

create index if not exists plans_tier_idx on app.plans (tier);

comment on table app.plans is 'What tenants pay for, and which cohort of the scheduler follows from it.';
comment on column app.plans.plan is 'The name of the plan.';
comment on column app.plans.tier is 'The cohort of its tenants, while they are active.';
comment on column app.plans.dormant_after is 'Without activity for so long, a tenant is DORMANT.';

insert into app.plans (plan, tier)
values ('enterprise', 'HIGH_VALUE'), ('pro', 'HIGH_VALUE'), ('growth', 'ACTIVE'), ('starter', 'DORMANT'),
       ('free', 'DORMANT')
on conflict on constraint plans_pkey do nothing;

grant select, update on app.plans to holdfast_system;
--! EndIncluded app/plans.sql
-- A tenant has a plan, from which its cohort follows unless it is pinned; those that are there keep what was chosen.
drop view if exists tenant.tenants;
drop index if exists app.tenants_tier_shard_idx;
alter table app.tenants
  drop column shard,
  add column if not exists plan text not null default 'growth',
  add column if not exists pinned_tier text,
  add column if not exists last_active_at timestamptz not null default now(),
  add column if not exists jobs_paused_at timestamptz,
  add column if not exists shard smallint not null
    generated always as (('x' || left(md5(tenant_id::text), 2))::bit(8)::integer) stored;
call app_private.force_off('app.tenants');
update app.tenants set pinned_tier = tier;
alter table app.tenants
  add constraint tenants_plan_fkey foreign key (plan) references app.plans (plan) on delete restrict,
  add constraint tenants_pinned_tier_fkey foreign key (pinned_tier) references app.tiers (tier) on delete restrict,
  add constraint tenants_tier_is_pinned check (pinned_tier is null or tier = pinned_tier);
call app_private.force_on('app.tenants');
--! Included app/tenants.sql
create table if not exists app.tenants (
  tenant_id  uuid        not null default app_private.uuid_v7(),
  name       text        not null,
  tier       text        not null default 'ACTIVE',
  time_zone  text        not null default 'UTC',
  status     text        not null default 'ACTIVE',
  version    bigint      not null default 1,
  required_tags text[] not null default '{environment,owner,cost_center}',
  sample     boolean     not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  plan       text        not null default 'growth',
  pinned_tier text,
  last_active_at timestamptz not null default now(),
  jobs_paused_at timestamptz,
  shard      smallint    not null
    generated always as (('x' || left(md5(tenant_id::text), 2))::bit(8)::integer) stored,

  constraint tenants_pkey primary key (tenant_id),
  constraint tenants_name_once unique (name),
  constraint tenants_name_length check (length(name) between 1 and 100 and name = btrim(name)),
  constraint tenants_name_printable check (name !~ '[[:cntrl:]]'),
  constraint tenants_tier_fkey foreign key (tier) references app.tiers (tier) on delete restrict,
  constraint tenants_plan_fkey foreign key (plan) references app.plans (plan) on delete restrict,
  constraint tenants_pinned_tier_fkey foreign key (pinned_tier)
    references app.tiers (tier) on delete restrict,
  constraint tenants_tier_is_pinned check (pinned_tier is null or tier = pinned_tier),
  constraint tenants_status_known check (status in ('ACTIVE', 'SUSPENDED')),
  constraint tenants_version_positive check (version >= 1),
  constraint tenants_required_tags_bounded check (
    cardinality(required_tags) <= 20 and array_position(required_tags, null) is null)
);

create index if not exists tenants_tier_shard_idx on app.tenants (tier, shard, tenant_id);
create index if not exists tenants_plan_idx on app.tenants (plan);
create index if not exists tenants_pinned_tier_idx on app.tenants (pinned_tier);

comment on table app.tenants is
  'Who pays, and in which tier. The one table whose names are unique across tenants: people pick it by name.';
comment on column app.tenants.tenant_id is 'The tenant; every other table leads with it.';
comment on column app.tenants.name is 'What people call the tenant; unique.';
comment on column app.tenants.tier is
  'The cohort of the scheduler; see app.tiers. It follows from plan and last_active_at unless it is pinned.';
comment on column app.tenants.time_zone is 'IANA zone in which days and months of the budget begin.';
comment on column app.tenants.status is 'ACTIVE, or SUSPENDED: nothing can be entered or scheduled.';
comment on column app.tenants.version is 'Rises by one with each change by a person.';
comment on column app.tenants.required_tags is
  'Tags that every line of usage should have; detector untagged_spend reads it.';
comment on column app.tenants.sample is 'Made by the first start, with generated cost data.';
comment on column app.tenants.created_at is 'When the tenant was made.';
comment on column app.tenants.updated_at is 'When a person last changed it.';
comment on column app.tenants.plan is 'What the tenant pays for; see app.plans.';
comment on column app.tenants.pinned_tier is 'The cohort that an operator has set; null: it follows from the plan.';
comment on column app.tenants.last_active_at is
  'When the tenant last asked for something, to the hour: an import, a job, a call to a model.';
comment on column app.tenants.jobs_paused_at is 'Since when no run of this tenant starts; null: it is not paused.';
comment on column app.tenants.shard is
  '0 to 255, from the id: which row of app.schedules makes the runs of this tenant.';

call app_private.isolate('app.tenants', for_system => true);
call app_private.fence('app.tenants');
grant select, insert, update on app.tenants to holdfast_system;
--! EndIncluded app/tenants.sql
--! Included app_private/tenant_active.sql
create or replace function app_private.tenant_active(tenant_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  -- Nobody waits to be noted: what holds the row now notes it, or the next call does.
  update app.tenants as t
  set last_active_at = pg_catalog.now()
  where t.tenant_id in (
    select x.tenant_id from app.tenants as x
    where x.tenant_id = tenant_active.tenant_id
      and x.last_active_at < pg_catalog.now() - interval '1 hour'
    for no key update skip locked);
end
$$;

comment on function app_private.tenant_active is
  'Notes that the tenant asked for something, at most once an hour: its cohort follows from that at the next app.tiers_derive.';
--! EndIncluded app_private/tenant_active.sql
--! Included app/cost_sources.sql
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
--! EndIncluded app/cost_sources.sql
--! Included app/cost_sources_list.sql
create or replace function app.cost_sources_list(tenant_id uuid, ticket text)
returns table (source text, path text, last_digest text)
language plpgsql
security definer  -- the shell may not read sources
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  return query
  select s.source, s.path, case when i.id is not null then s.last_digest end
  from app.cost_sources as s
  -- A file that a later import has taken months from is read again, though it is the same.
  left join app.cost_imports as i
    on i.tenant_id = s.tenant_id and i.id = s.last_import_id and i.status = 'PUBLISHED'
      and not exists (
        select from app.cost_daily as d
        join app.cost_periods as p
          on p.tenant_id = d.tenant_id and p.source = s.source
            and p.billing_period_start = d.billing_period_start
        where d.tenant_id = i.tenant_id and d.import_id = i.id and p.import_id <> i.id)
  where s.tenant_id = cost_sources_list.tenant_id
  order by s.source;
end
$$;

comment on function app.cost_sources_list is
  'The cost sources of a tenant, for a worker to read. last_digest is the SHA-256, in hex, of the file whose import stands '
  'for all its months; null when the file is to be read whatever it holds.';

grant execute on function app.cost_sources_list to holdfast_service;
--! EndIncluded app/cost_sources_list.sql
--! Included app/cost_source_imported.sql
create or replace function app.cost_source_imported(
  tenant_id uuid, ticket text, source text, digest text, import_id uuid) returns boolean
language plpgsql
security definer  -- the shell may not write sources
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  if coalesce(digest, '') !~ '^[0-9a-f]{64}$' then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', 'digest'),
      hint    = 'A digest is the SHA-256 of the file in 64 lowercase hex digits.';
  end if;
  if not exists (
    select from app.cost_imports as i
    where i.tenant_id = cost_source_imported.tenant_id
      and i.id = cost_source_imported.import_id
      and i.source = cost_source_imported.source
      and i.status in ('PUBLISHED', 'SUPERSEDED'))
  then
    raise exception using
      errcode = 'IM101',
      message = 'import_not_found',
      hint    = 'It is no import of this source, or was not published; ops.imports lists them.';
  end if;

  update app.cost_sources as s
  set last_digest = cost_source_imported.digest,
      last_import_id = cost_source_imported.import_id,
      last_import_at = now()
  where s.tenant_id = cost_source_imported.tenant_id and s.source = cost_source_imported.source;

  return found;
end
$$;

comment on function app.cost_source_imported is
  'Remembers which file of a source was imported, so that it is not read again before it changes. False when the source was '
  'dropped meanwhile: what was imported stays. Raises IM101 unless it is a published import of the source, OP102.';

grant execute on function app.cost_source_imported to holdfast_service;
--! EndIncluded app/cost_source_imported.sql
--! Included app/job_kinds.sql
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
--! EndIncluded app/job_kinds.sql
--! Included app/job_run_transitions.sql
create table if not exists app.job_run_transitions (
  from_state text not null,
  to_state   text not null,
  meaning    text not null,

  constraint job_run_transitions_pkey primary key (from_state, to_state)
);

comment on table app.job_run_transitions is
  'The life of a run: every change of state that is not a row here is refused, whoever asks.';
comment on column app.job_run_transitions.from_state is 'The state before.';
comment on column app.job_run_transitions.to_state is 'The state after.';
comment on column app.job_run_transitions.meaning is 'What happened.';

insert into app.job_run_transitions (from_state, to_state, meaning)
values
  ('PENDING',     'RUNNING',     'A worker claimed it.'),
  ('PENDING',     'DEAD_LETTER', 'A person cancelled it.'),
  ('RUNNING',     'COMPLETED',   'The attempt ended, and its work was committed with it.'),
  ('RUNNING',     'FAILED',      'The attempt failed or its worker died; it is tried again.'),
  ('RUNNING',     'DEAD_LETTER', 'The attempt failed for good, or a person cancelled it.'),
  ('RUNNING',     'PENDING',     'The worker was stopped; the attempt does not count.'),
  ('FAILED',      'RUNNING',     'A worker claimed it again.'),
  ('FAILED',      'DEAD_LETTER', 'A person cancelled it.'),
  ('DEAD_LETTER', 'PENDING',     'A person replays it.')
on conflict on constraint job_run_transitions_pkey do nothing;

grant select on app.job_run_transitions to holdfast_system, holdfast_tenant;
--! EndIncluded app/job_run_transitions.sql
--! Included app/job_runs.sql
create table if not exists app.job_runs (
  tenant_id     uuid        not null,
  id            uuid        not null default app_private.uuid_v7(),
  kind          text        not null,
  slot          bigint,
  state         text        not null default 'PENDING',
  attempt       integer     not null default 0,
  failure_count integer     not null default 0,
  crash_count   integer     not null default 0,
  priority      smallint    not null default 0,
  input         jsonb       not null default '{}',
  result        jsonb,
  error_code    text,
  error         text,
  worker        text,
  available_at  timestamptz not null default now(),
  token_at      timestamptz,
  lease_until   timestamptz,
  created_at    timestamptz not null default now(),
  started_at    timestamptz,
  finished_at   timestamptz,
  token_rank    smallint    not null default 0,
  progress      real,
  progress_text text,
  cancel_requested_at timestamptz,
  discarded_at  timestamptz,
  replay_count  integer     not null default 0,
  actor         text,
  reason        text,

  constraint job_runs_pkey primary key (tenant_id, id),
  constraint job_runs_state_known
    check (state in ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'DEAD_LETTER')),
  constraint job_runs_lease_iff_running check ((state = 'RUNNING') = (lease_until is not null)),
  constraint job_runs_finished_at_iff_ended
    check ((state in ('COMPLETED', 'DEAD_LETTER')) = (finished_at is not null)),
  constraint job_runs_error_code_iff_failed
    check (state not in ('FAILED', 'DEAD_LETTER') or error_code is not null),
  constraint job_runs_counts_sane
    check (attempt >= 0 and failure_count >= 0 and crash_count >= 0 and replay_count >= 0),
  constraint job_runs_token_rank_positive check (token_rank >= 0),
  constraint job_runs_progress_sane check (progress between 0 and 1 and length(progress_text) <= 200),
  constraint job_runs_running_has_token check (state <> 'RUNNING' or token_at is not null),
  constraint job_runs_discarded_iff_dead check (discarded_at is null or state = 'DEAD_LETTER'),
  constraint job_runs_reason_bounded check (length(actor) <= 100 and length(reason) <= 500)
) partition by range (id);

create index if not exists job_runs_live_idx
  on app.job_runs (tenant_id, kind, token_at) where state in ('PENDING', 'RUNNING', 'FAILED');
create index if not exists job_runs_lease_until_idx on app.job_runs (lease_until) where state = 'RUNNING';
create index if not exists job_runs_token_at_idx
  on app.job_runs (token_at) where state in ('PENDING', 'FAILED') and token_at is not null;
create index if not exists job_runs_parked_idx
  on app.job_runs (tenant_id, kind, priority, available_at, id)
  where state in ('PENDING', 'FAILED') and token_at is null;
create index if not exists job_runs_due_idx
  on app.job_runs (available_at) where state in ('PENDING', 'FAILED') and token_at is null;
create index if not exists job_runs_finished_at_idx
  on app.job_runs (finished_at) where finished_at is not null;
create index if not exists job_runs_id_idx on app.job_runs using brin (id);
create index if not exists job_runs_dead_idx
  on app.job_runs (tenant_id, id) where state = 'DEAD_LETTER' and discarded_at is null;
create index if not exists job_runs_replayed_idx
  on app.job_runs (kind, replay_count) where replay_count > 0;

comment on table app.job_runs is
  'The truth about every job. A job of graphile-worker is only a token that wakes a worker up for one of these.';
comment on column app.job_runs.tenant_id is 'Whose run it is.';
comment on column app.job_runs.id is 'The run; UUIDv7.';
comment on column app.job_runs.kind is 'What it does; see app.job_kinds.';
comment on column app.job_runs.slot is
  'The turn of the scheduler that made it: when it began, in seconds since 1970. Null when someone asked for it.';
comment on column app.job_runs.state is
  'PENDING, RUNNING, then COMPLETED, or FAILED (tried again), or DEAD_LETTER; see app.job_run_transitions.';
comment on column app.job_runs.attempt is 'Counts the claims. It fences: what an older attempt writes is refused.';
comment on column app.job_runs.failure_count is 'How many attempts failed.';
comment on column app.job_runs.crash_count is 'How many attempts ended with a lost worker; three make a dead letter.';
comment on column app.job_runs.priority is 'Which of a tenant''s own waiting runs goes first; lower is earlier.';
comment on column app.job_runs.input is 'What the task was asked.';
comment on column app.job_runs.result is 'What the task answered.';
comment on column app.job_runs.error_code is 'The fixed name of the last error.';
comment on column app.job_runs.error is 'The last error, for a person; never a secret or a prompt.';
comment on column app.job_runs.worker is 'Who claimed it; null once that worker was lost.';
comment on column app.job_runs.available_at is 'Not claimed before this.';
comment on column app.job_runs.token_at is
  'When its last token was queued; a lost one is queued again. Null: it is not admitted yet, see ops.why_waiting.';
comment on column app.job_runs.lease_until is 'When its worker counts as lost, unless it beats; null unless RUNNING.';
comment on column app.job_runs.created_at is 'When it was made.';
comment on column app.job_runs.started_at is 'When the last attempt began.';
comment on column app.job_runs.finished_at is 'When it ended for good.';
comment on column app.job_runs.token_rank is
  'Which of its tenant''s admitted runs of this kind it is, from 0: tokens of a lower rank go first, so that tenants take turns.';
comment on column app.job_runs.progress is 'How much of the attempt is done, 0 to 1, as its task says.';
comment on column app.job_runs.progress_text is 'What the task is at, in its words.';
comment on column app.job_runs.cancel_requested_at is
  'When its end was asked for while it ran: its task is told within 5 s, and it ends without it 15 s later.';
comment on column app.job_runs.discarded_at is
  'When a dead letter was put aside by a person, or cancelled; null while it waits for one.';
comment on column app.job_runs.replay_count is 'How often a person replayed it.';
comment on column app.job_runs.actor is 'Who last cancelled, replayed or discarded it.';
comment on column app.job_runs.reason is 'Why, in the words of the actor.';

call app_private.isolate('app.job_runs', for_system => true);
call app_private.fence('app.job_runs');
grant select, insert, update on app.job_runs to holdfast_system;
--! EndIncluded app/job_runs.sql
--! Included app/job_slots.sql
create table if not exists app.job_slots (
  tenant_id uuid   not null,
  kind      text   not null,
  slot      bigint not null,
  run_id    uuid   not null,

  constraint job_slots_pkey primary key (tenant_id, kind, slot)
);

create index if not exists job_slots_slot_idx on app.job_slots (slot);

comment on table app.job_slots is
  'Which turns of the scheduler were taken: one run per tenant, kind and slot, whoever ticks. Kept for two days, and the '
  'last one of each for ever.';
comment on column app.job_slots.tenant_id is 'Whose turn it is.';
comment on column app.job_slots.kind is 'The kind of run.';
comment on column app.job_slots.slot is 'When the turn began, in seconds since 1970: cohorts share one count of time.';
comment on column app.job_slots.run_id is 'The run that was made.';

call app_private.isolate('app.job_slots', for_system => true);
grant select, insert, update, delete on app.job_slots to holdfast_system;
--! EndIncluded app/job_slots.sql
--! Included app/job_gates.sql
create table if not exists app.job_gates (
  tenant_id   uuid        not null,
  kind        text        not null,
  starts_left numeric     not null default 0,
  refilled_at timestamptz not null default '-infinity',

  constraint job_gates_pkey primary key (tenant_id, kind)
);

comment on table app.job_gates is
  'What those who claim runs of one tenant and a limited kind lock, so that its limits hold whoever claims; and the '
  'bucket of its rate. How many run is counted in app.job_runs, never kept.';
comment on column app.job_gates.tenant_id is 'Whose runs they are.';
comment on column app.job_gates.kind is 'A kind with a limit.';
comment on column app.job_gates.starts_left is 'How many may start at refilled_at; rate_per_minute adds to it.';
comment on column app.job_gates.refilled_at is 'When starts_left was counted.';

call app_private.isolate('app.job_gates', for_system => true);
grant select, insert, update on app.job_gates to holdfast_system;
--! EndIncluded app/job_gates.sql
--! Included app/job_workers.sql
create table if not exists app.job_workers (
  worker      text        not null,
  pool        text        not null,
  host        text        not null,
  pid         integer     not null,
  version     text        not null,
  kinds       text[]      not null,
  concurrency integer     not null,
  running     integer     not null default 0,
  started_at  timestamptz not null default now(),
  seen_at     timestamptz not null default now(),

  constraint job_workers_pkey primary key (worker)
);

comment on table app.job_workers is
  'The worker processes that live: each beats every 5 s, and one that was not heard of for 20 s is removed.';
comment on column app.job_workers.worker is 'Its name, as app.job_runs.worker has it: host:pid:pool.';
comment on column app.job_workers.pool is 'Its pool in graphile-worker, which marks the tokens that it holds.';
comment on column app.job_workers.host is 'The machine.';
comment on column app.job_workers.pid is 'The process there.';
comment on column app.job_workers.version is 'The version of holdfast that it runs.';
comment on column app.job_workers.kinds is 'The kinds of run that it has tasks for.';
comment on column app.job_workers.concurrency is 'How many runs it takes at a time.';
comment on column app.job_workers.running is 'How many it had at its last beat.';
comment on column app.job_workers.started_at is 'When it started.';
comment on column app.job_workers.seen_at is 'Its last beat.';

grant select, insert, update, delete on app.job_workers to holdfast_system;
--! EndIncluded app/job_workers.sql
--! Included app_private/workers_alive.sql
create or replace view app_private.workers_alive as
select w.worker, w.kinds
from app.job_workers as w
where w.seen_at > pg_catalog.clock_timestamp() - interval '20 seconds';

comment on view app_private.workers_alive is
  'The workers that were heard of within 20 s, and the kinds that they have tasks for; app.workers_reap removes the others.';

grant select on app_private.workers_alive to holdfast_system;
--! EndIncluded app_private/workers_alive.sql
--! Included app/job_run_keys.sql
create table if not exists app.job_run_keys (
  tenant_id       uuid        not null,
  idempotency_key text        not null,
  fingerprint     text        not null,
  run_id          uuid        not null,
  created_at      timestamptz not null default now(),

  constraint job_run_keys_pkey primary key (tenant_id, idempotency_key),
  constraint job_run_keys_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint job_run_keys_key_length check (length(idempotency_key) between 1 and 255)
);

create index if not exists job_run_keys_created_at_idx on app.job_run_keys (created_at);

comment on table app.job_run_keys is 'Which run an idempotency key made. Kept for 30 days.';
comment on column app.job_run_keys.tenant_id is 'Whose key it is; another tenant may use the same.';
comment on column app.job_run_keys.idempotency_key is 'What the caller named its request.';
comment on column app.job_run_keys.fingerprint is
  'Digest of the request: the same key with another request is refused.';
comment on column app.job_run_keys.run_id is 'The run that was made.';
comment on column app.job_run_keys.created_at is 'When it was first used.';

call app_private.isolate('app.job_run_keys', for_system => true);
grant select, update, delete on app.job_run_keys to holdfast_system;
--! EndIncluded app/job_run_keys.sql
--! Included app/job_run_events.sql
create table if not exists app.job_run_events (
  tenant_id  uuid        not null,
  id         uuid        not null default app_private.uuid_v7(),
  run_id     uuid        not null,
  from_state text,
  to_state   text        not null,
  attempt    integer     not null,
  actor      text        not null,
  reason     text,
  created_at timestamptz not null default clock_timestamp(),

  constraint job_run_events_pkey primary key (tenant_id, id)
) partition by range (id);

create index if not exists job_run_events_run_id_idx on app.job_run_events (tenant_id, run_id, id);

comment on table app.job_run_events is
  'The audit trail: every change of state that is made through app.job_runs, written by a trigger. Append only.';
comment on column app.job_run_events.tenant_id is 'Whose run it is.';
comment on column app.job_run_events.id is 'UUIDv7: also the order of events.';
comment on column app.job_run_events.run_id is 'The run.';
comment on column app.job_run_events.from_state is 'The state before; null for a new run.';
comment on column app.job_run_events.to_state is 'The state after.';
comment on column app.job_run_events.attempt is 'The attempt that it was.';
comment on column app.job_run_events.actor is 'The worker, the person, or the login that made the change.';
comment on column app.job_run_events.reason is 'The error code, or why a person did it.';
comment on column app.job_run_events.created_at is 'When it happened.';

call app_private.isolate('app.job_run_events', for_system => true);
call app_private.fence('app.job_run_events');
grant select, insert on app.job_run_events to holdfast_system;
--! EndIncluded app/job_run_events.sql
--! Included app_private/token.sql
-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.token') is null then
    create type app_private.token as (
      tenant_id    uuid,
      run_id       uuid,
      attempt      integer,
      available_at timestamptz,
      priority     smallint
    );
  end if;
end
$$;

comment on type app_private.token is
  'What a token of the queue says: which run to wake a worker up for, when, and before which others.';
--! EndIncluded app_private/token.sql
--! Included app_private/job_verdict.sql
-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.job_verdict') is null then
    create type app_private.job_verdict as (
      tenant_id uuid,
      run_id    uuid,
      kind      text,
      verdict   text,
      delay     interval,
      state     text
    );
  end if;
end
$$;

comment on type app_private.job_verdict is
  'Whether a run may start: start; parked, until its tenant has a place; delayed, for so long. state is the one it was found in.';
--! EndIncluded app_private/job_verdict.sql
--! Included app_private/tg_job_runs__transition.sql
create or replace function app_private.tg_job_runs__transition() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if not exists (
    select from app.job_run_transitions as t where t.from_state = old.state and t.to_state = new.state)
  then
    raise exception using
      errcode = 'JB202',
      message = 'job_transition_refused',
      detail  = pg_catalog.jsonb_build_object('run_id', old.id, 'from', old.state, 'to', new.state),
      hint    = 'select * from app.job_run_transitions lists the changes that a run may make.';
  end if;
  if old.state = 'DEAD_LETTER' and (new.actor is null or new.replay_count <> old.replay_count + 1) then
    raise exception using
      errcode = 'JB202',
      message = 'job_transition_refused',
      detail  = pg_catalog.jsonb_build_object('run_id', old.id, 'from', old.state, 'to', new.state),
      hint    = 'A dead letter comes back by ops.job_replay alone, which says who wants it and why.';
  end if;
  return new;
end
$$;

comment on function app_private.tg_job_runs__transition is
  'Refuses a change of state that is not a row of app.job_run_transitions, and a replay by nobody. Raises JB202.';

create or replace trigger _100_transition
  before update on app.job_runs
  for each row when (old.state is distinct from new.state)
  execute function app_private.tg_job_runs__transition();
--! EndIncluded app_private/tg_job_runs__transition.sql
--! Included app_private/tg_job_runs__audit.sql
create or replace function app_private.tg_job_runs__audit() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    insert into app.job_run_events (tenant_id, run_id, to_state, attempt, actor)
    select n.tenant_id, n.id, n.state, n.attempt, session_user
    from new_rows as n;
    return null;
  end if;

  -- What a worker never does, a person did.
  if new.actor is not null
    and (old.state = 'DEAD_LETTER' or (new.state = 'DEAD_LETTER' and new.discarded_at is not null))
  then
    insert into app.job_run_events (tenant_id, run_id, from_state, to_state, attempt, actor, reason)
    values (new.tenant_id, new.id, old.state, new.state, new.attempt, new.actor, new.reason);
  else
    insert into app.job_run_events (tenant_id, run_id, from_state, to_state, attempt, actor, reason)
    values (new.tenant_id, new.id, old.state, new.state, new.attempt, coalesce(new.worker, session_user),
            case when new.state in ('FAILED', 'DEAD_LETTER', 'PENDING') then new.error_code end);
  end if;
  return null;
end
$$;

comment on function app_private.tg_job_runs__audit is
  'Writes every change of state to app.job_run_events. The actor is the worker that claimed the run, or the person who '
  'cancelled or replayed it, else the login. New runs come many at a time, and so do their events; changes come one at a '
  'time, and a trigger for each row costs a fifth of one for the statement.';

create or replace trigger _200_audit_insert
  after insert on app.job_runs
  referencing new table as new_rows
  for each statement execute function app_private.tg_job_runs__audit();

create or replace trigger _210_audit_update
  after update on app.job_runs
  for each row when (old.state is distinct from new.state)
  execute function app_private.tg_job_runs__audit();
--! EndIncluded app_private/tg_job_runs__audit.sql
--! Included app_private/token_of.sql
create or replace function app_private.token_of(run app.job_runs, weight numeric) returns app_private.token
language sql
stable
-- One expression: the planner puts it in the place of the call.
return row(run.tenant_id, run.id, run.attempt, run.available_at,
  least(32000, run.token_rank * 10 / weight + case
      when run.slot is null or run.available_at < pg_catalog.now() - interval '5 minutes' then 0
      else 10 end)::smallint
)::app_private.token;

comment on function app_private.token_of is
  'The token of a run. Its priority is start-time fair queueing with the rank of the run among its tenant''s admitted ones '
  'for virtual time: rank x 10 / weight of the tier; what the scheduler made goes one rank behind what someone waits for, '
  'for five minutes at most.';

grant execute on function app_private.token_of to holdfast_system;
--! EndIncluded app_private/token_of.sql
--! Included app_private/tokens_add.sql
create or replace function app_private.tokens_add(tokens app_private.token[]) returns integer
language plpgsql
security definer  -- the queue belongs to the owner
set search_path = ''
as $$
declare
  v_left   app_private.token[] := tokens;
  v_queued text[];
begin
  for v_try in 1 .. 3 loop
    v_queued := array(
      select j.key
      from graphile_worker.add_jobs(array(
        select (
          'run',
          pg_catalog.json_build_object('tenant_id', t.tenant_id, 'run_id', t.run_id),
          null, t.available_at, 5, 'run:' || t.run_id || ':' || t.attempt, t.priority,
          null)::graphile_worker.job_spec
        from unnest(v_left) as t
        order by t.run_id)) as j);
    exit when pg_catalog.cardinality(v_queued) = coalesce(pg_catalog.cardinality(v_left), 0);

    -- One that a worker took in the middle of that is not replaced: asked for again, it is another token.
    v_left := array(
      select t from unnest(v_left) as t
      where not exists (
        select from unnest(v_queued) as q (key) where q.key = 'run:' || t.run_id || ':' || t.attempt));
  end loop;
  return coalesce(pg_catalog.cardinality(tokens), 0);
end
$$;

comment on function app_private.tokens_add is
  'Queues the token of each run, in the transaction that made the run due; the same token again replaces itself. One that '
  'workers snatch three times in a row is left to tokens_repair. Answers how many were asked for.';

grant execute on function app_private.tokens_add to holdfast_system;
--! EndIncluded app_private/tokens_add.sql
--! Included app_private/tokens_missing.sql
create or replace function app_private.tokens_missing(keys text[], living text[]) returns text[]
language plpgsql
stable
security definer  -- the queue belongs to the owner
set search_path = ''
as $$
begin
  return array(
    select k.key
    from unnest(keys) as k (key)
    where not exists (
      select from graphile_worker.jobs as j
      where j.key = k.key
        and j.attempts < j.max_attempts
        and (j.locked_by is null or j.locked_by = any (living)
          or j.locked_at > pg_catalog.clock_timestamp() - interval '20 seconds')));
end
$$;

comment on function app_private.tokens_missing is
  'Which of these keys have no token in the queue that can still wake a worker up: none at all, one that has been tried '
  'too often, or one that is held by none of the living pools.';

grant execute on function app_private.tokens_missing to holdfast_system;
--! EndIncluded app_private/tokens_missing.sql
--! Included app_private/tokens_unlock.sql
create or replace function app_private.tokens_unlock(pools text[]) returns integer
language plpgsql
security definer  -- the queue belongs to the owner
set search_path = ''
as $$
declare
  v_locked integer;
begin
  v_locked := (select count(*) from graphile_worker.jobs as j where j.locked_by = any (pools));
  perform graphile_worker.force_unlock_workers(pools);
  return v_locked;
end
$$;

comment on function app_private.tokens_unlock is
  'Gives back the tokens that pools of graphile-worker hold, which are gone: it would keep them for four hours. Answers how '
  'many.';

grant execute on function app_private.tokens_unlock to holdfast_system;
--! EndIncluded app_private/tokens_unlock.sql
--! Included app_private/runs_token.sql
create or replace function app_private.runs_token(tenant_ids uuid[], run_ids uuid[]) returns integer
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
begin
  return app_private.tokens_add(array(
    select app_private.token_of(r, c.weight)
    from unnest(tenant_ids, run_ids) as w (tenant_id, run_id)
    join app.job_runs as r on r.tenant_id = w.tenant_id and r.id = w.run_id
    join app.tenants as t on t.tenant_id = r.tenant_id
    join app.tiers as c on c.tier = t.tier));
end
$$;

comment on function app_private.runs_token is
  'Queues the tokens of these runs, as they stand, for the moments at which they are due; answers how many.';

grant execute on function app_private.runs_token to holdfast_system;
--! EndIncluded app_private/runs_token.sql
--! Included app_private/job_window.sql
create or replace function app_private.job_window(max_running integer, weight numeric) returns integer
language sql
immutable
parallel safe
return case when max_running is null then 100
  else greatest(1, pg_catalog.floor(max_running * weight))::integer end;

comment on function app_private.job_window is
  'How many runs of one tenant and kind are admitted to the queue at a time: those that may run at once, or 100 where any '
  'number may. So a tenant with many waiting runs holds few places before the others.';

grant execute on function app_private.job_window to holdfast_system, holdfast_ops;
--! EndIncluded app_private/job_window.sql
--! Included app_private/job_depth.sql
create or replace function app_private.job_depth(kind app.job_kinds, weight numeric) returns integer
language sql
immutable
parallel safe
return least(app_private.job_window((kind).max_running, weight), case
  when (kind).rate_per_minute is not null
  then greatest((kind).rate_burst, pg_catalog.ceil((kind).rate_per_minute / 6.0)) end)::integer;

comment on function app_private.job_depth is
  'How many places in the queue the runs of one tenant and kind have: the window, and of a kind with a rate no more than '
  'ten seconds'' worth of starts, for more would only wait there.';

grant execute on function app_private.job_depth to holdfast_system, holdfast_ops;
--! EndIncluded app_private/job_depth.sql
--! Included app_private/job_places.sql
create or replace function app_private.job_places(tenant_ids uuid[], kinds text[])
returns table (
  tenant_id uuid, kind text, weight numeric, size integer, used integer, rank smallint, waiting integer)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
begin
  return query
  select p.tenant_id, p.kind, c.weight, w.size, cardinality(taken.ranks), s.rank::smallint,
         taken.waiting
  from (select distinct u.tenant_id, u.kind from unnest(tenant_ids, kinds) as u (tenant_id, kind)) as p
  cross join (
    select array_agg(distinct o.kind) as kinds  -- null while no worker lives
    from app_private.workers_alive as x cross join unnest(x.kinds) as o (kind)) as alive
  join app.tenants as t on t.tenant_id = p.tenant_id and t.status = 'ACTIVE' and t.jobs_paused_at is null
  join app.tiers as c on c.tier = t.tier and c.paused_at is null
  join app.job_kinds as k on k.kind = p.kind and k.paused_at is null
    -- What no living worker serves would go from hand to hand.
    and (k.kind = any (alive.kinds)) is not false
  cross join lateral (select app_private.job_depth(k, c.weight) as size) as w
  cross join lateral (
    select coalesce(array_agg(r.token_rank), '{}') as ranks,
           (count(*) filter (where r.state <> 'RUNNING'))::integer as waiting
    from app.job_runs as r
    where r.tenant_id = p.tenant_id and r.kind = p.kind and r.token_at is not null
      and r.state in ('PENDING', 'RUNNING', 'FAILED')
      -- One that waits for its next attempt leaves its place to another.
      and (r.state <> 'FAILED' or r.available_at <= pg_catalog.clock_timestamp())) as taken
  cross join lateral (
    select g.rank
    from pg_catalog.generate_series(0, w.size - 1) as g (rank)
    where g.rank <> all (taken.ranks)
    order by g.rank
    limit greatest(0, w.size - cardinality(taken.ranks))) as s;  -- a rank may be held twice, a place not
end
$$;

comment on function app_private.job_places is
  'The free places in the queue of each tenant and kind, one row each, lowest rank first to be taken; size is how many '
  'there are, used how many runs hold one, waiting those of them that have not begun: counted from app.job_runs, so that none can leak. None while it is paused, '
  'and while none of the workers that live serves the kind.';

grant execute on function app_private.job_places to holdfast_system;
--! EndIncluded app_private/job_places.sql
--! Included app_private/run_add.sql
create or replace function app_private.run_add(
  tenant_id uuid, id uuid, kind text, input jsonb, available_at timestamptz, priority smallint)
returns app.job_runs
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_max_waiting integer;
  v_weight      numeric;
  v_rank        smallint;
  v_run         app.job_runs;
begin
  select k.max_waiting, c.weight into v_max_waiting, v_weight
  from app.job_kinds as k
  cross join app.tenants as t
  join app.tiers as c on c.tier = t.tier
  where k.kind = run_add.kind and t.tenant_id = run_add.tenant_id;
  if not found then
    raise exception using
      errcode = 'JB102',
      message = 'job_kind_unknown',
      detail  = pg_catalog.jsonb_build_object('kind', kind),
      hint    = 'select * from app.job_kinds lists the kinds of job that there are.';
  end if;
  -- Counting a long line at each call would make it slower the longer it is: beyond a thousand, one call in 64 counts.
  if (v_max_waiting <= 1000 or pg_catalog.get_byte(pg_catalog.uuid_send(id), 15) < 4)
    and (select count(*) >= v_max_waiting from (
      select from app.job_runs as r
      where r.tenant_id = run_add.tenant_id and r.kind = run_add.kind
        and r.state in ('PENDING', 'RUNNING', 'FAILED') limit v_max_waiting) as live)
  then
    raise exception using
      errcode = 'JB103',
      message = 'job_queue_full',
      detail  = pg_catalog.jsonb_build_object('kind', kind, 'max_waiting', v_max_waiting),
      hint    = 'That many runs of this kind wait already. Wait for them, or cancel some.';
  end if;

  -- Who comes while others are parked goes behind them.
  if available_at <= pg_catalog.clock_timestamp() and not exists (
    select from app.job_runs as r
    where r.tenant_id = run_add.tenant_id and r.kind = run_add.kind
      and r.state in ('PENDING', 'FAILED') and r.token_at is null
      and r.available_at <= pg_catalog.clock_timestamp())
  then
    v_rank := (select min(f.rank) from app_private.job_places(array[tenant_id], array[kind]) as f);
  end if;
  insert into app.job_runs as r (tenant_id, id, kind, input, available_at, priority, token_at, token_rank)
  values (run_add.tenant_id, run_add.id, run_add.kind, run_add.input, run_add.available_at, run_add.priority,
          case when v_rank is not null then pg_catalog.clock_timestamp() end, coalesce(v_rank, 0))
  returning r.* into v_run;
  if v_rank is not null then
    perform app_private.tokens_add(array[app_private.token_of(v_run, v_weight)]);
  end if;
  return v_run;
end
$$;

comment on function app_private.run_add is
  'Makes a run that somebody asks for: with its token when its tenant has a free place, else parked until one ends. Raises '
  'JB102 for a kind that is not there, JB103 when max_waiting runs of it have not ended; a limit of more than a thousand may be '
  'passed by a few dozen.';

grant execute on function app_private.run_add to holdfast_system;
--! EndIncluded app_private/run_add.sql
--! Included app_private/runs_admit.sql
create or replace function app_private.runs_admit(tenant_ids uuid[], kinds text[]) returns integer
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_tokens app_private.token[];
begin
  with places as materialized (
    select f.tenant_id, f.kind, f.weight, f.rank,
           row_number() over (partition by f.tenant_id, f.kind order by f.rank) as n
    from app_private.job_places(tenant_ids, kinds) as f
    join app.job_kinds as k on k.kind = f.kind
    -- Where any number may run, the window is only depth, filled when half of it has begun: each filling is a notice
    -- to every worker.
    where k.max_running is not null or f.waiting * 2 <= f.size
  ),
  next as materialized (
    select p.tenant_id, p.kind, r.id,
           row_number() over (partition by p.tenant_id, p.kind order by r.priority, r.available_at, r.id) as n
    from (select l.tenant_id, l.kind, max(l.n) as free from places as l group by l.tenant_id, l.kind) as p
    cross join lateral (
      select x.id, x.priority, x.available_at
      from app.job_runs as x
      where x.tenant_id = p.tenant_id and x.kind = p.kind and x.state in ('PENDING', 'FAILED')
        and x.token_at is null and x.available_at <= pg_catalog.clock_timestamp()
      order by x.priority, x.available_at, x.id
      limit p.free
      for no key update skip locked) as r
  ),
  admitted as (
    update app.job_runs as r
    set token_at = pg_catalog.clock_timestamp(), token_rank = l.rank
    from next as x
    join places as l on l.tenant_id = x.tenant_id and l.kind = x.kind and l.n = x.n
    where r.tenant_id = x.tenant_id and r.id = x.id and r.token_at is null
      and r.state in ('PENDING', 'FAILED')
    returning app_private.token_of(r, l.weight) as token
  )
  select array_agg(a.token) into v_tokens from admitted as a;

  return case when v_tokens is null then 0 else app_private.tokens_add(v_tokens) end;
end
$$;

comment on function app_private.runs_admit is
  'Gives parked runs of these tenants and kinds (pairs) the places that are free, with their tokens; answers how many. What '
  'another transaction admits is skipped: never a deadlock, never twice.';

grant execute on function app_private.runs_admit to holdfast_system;
--! EndIncluded app_private/runs_admit.sql
--! Included app_private/slot_input.sql
create or replace function app_private.slot_input(ended app.job_runs) returns jsonb
language sql
immutable
set search_path = ''
as $$
  select coalesce(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
    'missed_slots', (ended).input -> 'missed_slots',
    'without', nullif(coalesce((ended).input -> 'without', '[]') || case
      when (ended).state = 'DEAD_LETTER' then pg_catalog.to_jsonb(array[(ended).kind])
      else '[]' end, '[]'))), '{}')
$$;

comment on function app_private.slot_input is
  'What the next run of a slot is told by the one before it: without, the kinds that have failed for good; missed_slots, how '
  'many turns it stands for beside its own.';

grant execute on function app_private.slot_input to holdfast_system;
--! EndIncluded app_private/slot_input.sql
--! Included app_private/slots_follow.sql
create or replace function app_private.slots_follow(ended app.job_runs[]) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_tokens app_private.token[];
  v_made   integer;
begin
  with next as materialized (
    select e.tenant_id, k.kind, e.slot, app_private.slot_input(e) as input, app_private.uuid_v7() as run_id
    from unnest(ended) as e
    join app.job_kinds as p on p.kind = e.kind
    cross join lateral (
      select x.kind, x.paused_at is not null as paused
      from app.job_kinds as x
      where x.slot_order > p.slot_order
        and (x.kind <> 'cost_import'
          or exists (select from app.cost_sources as s where s.tenant_id = e.tenant_id))
      order by x.slot_order
      limit 1) as k
    -- Who cancelled it ended the turn, until it is replayed. What died and is replayed has had its next one: the slot is
    -- taken, for as long as slots are kept.
    where e.slot is not null and e.discarded_at is null and e.cancel_requested_at is null
      and (e.replay_count = 0 or e.slot > extract(epoch from pg_catalog.now() - interval '1 day'))
      -- While its kind is paused one of a tenant waits, for the newest turn as well: they do not pile up.
      and not (k.paused and exists (
        select from app.job_runs as w
        where w.tenant_id = e.tenant_id and w.kind = k.kind and w.slot is not null
          and w.state in ('PENDING', 'FAILED')))
  ),
  taken as (
    insert into app.job_slots (tenant_id, kind, slot, run_id)
    select n.tenant_id, n.kind, n.slot, n.run_id from next as n order by n.tenant_id, n.kind, n.slot
    on conflict on constraint job_slots_pkey do nothing
    returning tenant_id, kind, slot, run_id
  ),
  made as (
    insert into app.job_runs as r (tenant_id, id, kind, slot, input, token_at, token_rank)
    select t.tenant_id, t.run_id, t.kind, t.slot, n.input,
           case when f.rank is not null then pg_catalog.clock_timestamp() end, coalesce(f.rank, 0)
    from taken as t
    join next as n on n.tenant_id = t.tenant_id and n.run_id = t.run_id
    left join lateral (
      select x.rank
      from app_private.job_places(array[t.tenant_id], array[t.kind]) as x
      order by x.rank limit 1) as f on true
    returning r.*
  )
  select array_agg(app_private.token_of(m, c.weight)) filter (where m.token_at is not null), count(*)
  into v_tokens, v_made
  from made as m
  join app.tenants as t on t.tenant_id = m.tenant_id
  join app.tiers as c on c.tier = t.tier;
  if v_tokens is not null then
    perform app_private.tokens_add(v_tokens);
  end if;
  return v_made;
end
$$;

comment on function app_private.slots_follow is
  'Makes the next kind of the slot of each of these ended runs, once for each tenant, kind and slot. It goes on without a '
  'run that ended as a dead letter, and its input says so. The turn of a run that was cancelled, by a person or by the '
  'next turn of its tenant, ends with it. Answers how many it made.';

grant execute on function app_private.slots_follow to holdfast_system;
--! EndIncluded app_private/slots_follow.sql
--! Included app_private/tg_job_runs__ended.sql
create or replace function app_private.tg_job_runs__ended() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if new.state = 'DEAD_LETTER' then
    perform app_private.event_add(new.tenant_id,
      case when new.discarded_at is null then 'run.dead_letter' else 'run.cancelled' end, new.id,
      pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
        'kind', new.kind, 'error_code', new.error_code,
        'reason', case when new.discarded_at is not null then new.reason end)));
  end if;

  if new.slot is not null then
    perform app_private.slots_follow(array[new::app.job_runs]);
  end if;

  if exists (
    select from app.job_runs as r
    where r.tenant_id = new.tenant_id and r.kind = new.kind
      and r.state in ('PENDING', 'FAILED') and r.token_at is null)
    -- Where any number may run, nothing is done before half of the window has begun.
    and not exists (
      select from app.job_kinds as k
      where k.kind = new.kind and k.max_running is null
        and app_private.job_window(null, 1) < 2 * (
          select count(*) from (
            select from app.job_runs as r
            where r.tenant_id = new.tenant_id and r.kind = new.kind and r.token_at is not null
              and r.state in ('PENDING', 'FAILED')
            limit app_private.job_window(null, 1) / 2 + 1) as taken))
  then
    perform app_private.runs_admit(array[new.tenant_id], array[new.kind]);
  end if;
  return null;
end
$$;

comment on function app_private.tg_job_runs__ended is
  'What follows from the end of a run, in the transaction that ends it, whoever does: the event of a dead letter, the next '
  'kind of its slot, and the place in the queue for the tenant''s next run.';

create or replace trigger _220_ended
  after update on app.job_runs
  for each row when (old.finished_at is null and new.finished_at is not null)
  execute function app_private.tg_job_runs__ended();
--! EndIncluded app_private/tg_job_runs__ended.sql
--! Included app_private/job_fenced.sql
create or replace function app_private.job_fenced(tenant_id uuid, run_id uuid, attempt integer) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  select r.* into v_run from app.job_runs as r where r.tenant_id = job_fenced.tenant_id and r.id = run_id;
  if not found then
    perform app_private.job_run_missing();
  end if;
  raise exception using
    errcode = 'JB201',
    message = 'job_run_fenced',
    detail  = pg_catalog.jsonb_build_object('run_id', run_id, 'attempt', attempt,
                'state', v_run.state, 'now_at', v_run.attempt),
    hint    = 'Another attempt took over, or the run has ended. Drop what this one did.';
end
$$;

comment on function app_private.job_fenced is
  'Raises JB201 for an attempt that no longer runs, JB101 for a run that is not there.';
--! EndIncluded app_private/job_fenced.sql
--! Included app_private/job_cancelled.sql
create or replace function app_private.job_cancelled(run_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'JB203',
    message = 'job_cancelled',
    detail  = pg_catalog.jsonb_build_object('run_id', run_id),
    hint    = 'Its end was asked for: stop the work and let the worker write it down.';
end
$$;

comment on function app_private.job_cancelled is 'Raises JB203: somebody asked for the end of this run.';
--! EndIncluded app_private/job_cancelled.sql
--! Included app_private/job_gates_lock.sql
create or replace function app_private.job_gates_lock(tenant_ids uuid[], run_ids uuid[]) returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_gates app.job_gates[];
begin
  select array_agg(row(l.tenant_id, l.kind, 0, '-infinity')::app.job_gates order by l.tenant_id, l.kind)
  into v_gates
  from (
    select distinct r.tenant_id, r.kind
    from unnest(tenant_ids, run_ids) as w (tenant_id, run_id)
    join app.job_runs as r on r.tenant_id = w.tenant_id and r.id = w.run_id
    join app.job_kinds as k on k.kind = r.kind
    where k.max_running is not null or k.rate_per_minute is not null) as l;
  if v_gates is null then
    return;
  end if;

  insert into app.job_gates select u.* from unnest(v_gates) as u
  on conflict on constraint job_gates_pkey do nothing;
  perform from app.job_gates as g
  join unnest(v_gates) as u on u.tenant_id = g.tenant_id and u.kind = g.kind
  order by g.tenant_id, g.kind
  for no key update of g;
end
$$;

comment on function app_private.job_gates_lock is
  'Locks the gates of the limited kinds among these runs, in one order: who claims runs of the same tenant and kind waits.';

grant execute on function app_private.job_gates_lock to holdfast_system;
--! EndIncluded app_private/job_gates_lock.sql
--! Included app_private/starts_left.sql
create or replace function app_private.starts_left(
  starts_left numeric, refilled_at timestamptz, at timestamptz, rate_per_minute integer, rate_burst integer)
returns numeric
language sql
immutable
parallel safe
return case
  when refilled_at is null or refilled_at = '-infinity' then rate_burst
  else least(rate_burst, starts_left
    + greatest(0, extract(epoch from at - refilled_at)) * rate_per_minute / 60) end;

comment on function app_private.starts_left is
  'A token bucket (RFC 2697 without the excess bucket): what was left, plus rate x time, at most the burst. A clock that '
  'went back adds nothing.';

grant execute on function app_private.starts_left to holdfast_system, holdfast_ops;
--! EndIncluded app_private/starts_left.sql
--! Included app_private/job_judged.sql
create or replace function app_private.job_judged(
  tenant_ids uuid[], run_ids uuid[], served text[], at timestamptz)
returns setof app_private.job_verdict
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
begin
  return query
  with due as materialized (
    select r.tenant_id, r.id, r.kind, r.priority, r.available_at, r.state
    from (select distinct u.* from unnest(tenant_ids, run_ids) as u (tenant_id, run_id)) as w
    join app.job_runs as r on r.tenant_id = w.tenant_id and r.id = w.run_id
    where r.state in ('PENDING', 'FAILED') and r.available_at <= at
    order by r.tenant_id, r.id
    for no key update of r skip locked
  )
  select d.tenant_id, d.id, d.kind,
         case when t.status <> 'ACTIVE' or t.jobs_paused_at is not null or c.paused_at is not null
                or k.paused_at is not null then 'parked'
              when d.kind <> all (served)
                and not exists (select from app_private.workers_alive as o where d.kind = any (o.kinds))
                then 'parked'
              when d.n > m.places_left then 'parked'
              when d.kind <> all (served) or d.n > m.starts_left then 'delayed'
              else 'start' end,
         case when d.kind <> all (served) then interval '5 seconds'
              when d.n > m.starts_left
                then (d.n - m.starts_exact) * interval '60 seconds' / k.rate_per_minute end,
         d.state
  from (
    select x.*, row_number() over (
             partition by x.tenant_id, x.kind order by x.priority, x.available_at, x.id) as n
    from due as x) as d
  join app.tenants as t on t.tenant_id = d.tenant_id
  join app.tiers as c on c.tier = t.tier
  join app.job_kinds as k on k.kind = d.kind
  left join app.job_gates as g on g.tenant_id = d.tenant_id and g.kind = d.kind
  cross join lateral (
    select case when k.max_running is not null then app_private.job_window(k.max_running, c.weight) - (
             select count(*) from app.job_runs as r
             where r.tenant_id = d.tenant_id and r.kind = d.kind and r.token_at is not null
               and r.state = 'RUNNING') end as places_left,
           case when k.rate_per_minute is not null
             then app_private.starts_left(g.starts_left, g.refilled_at, at, k.rate_per_minute, k.rate_burst)
           end as starts_exact,
           case when k.rate_per_minute is not null
             then pg_catalog.floor(
               app_private.starts_left(g.starts_left, g.refilled_at, at, k.rate_per_minute, k.rate_burst))
           end as starts_left) as m;
end
$$;

comment on function app_private.job_judged is
  'Which of these runs may start at a moment: start; parked, for its tenant, kind or cohort is paused or has no place left; '
  'delayed, by the rate of its kind, or because the worker does not serve it (null: it serves all). Locks the runs; one that somebody else holds is not answered. Under the '
  'locks of job_gates_lock.';

grant execute on function app_private.job_judged to holdfast_system;
--! EndIncluded app_private/job_judged.sql
--! Included app_private/runs_wait.sql
create or replace function app_private.runs_wait(judged app_private.job_verdict[]) returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_tokens app_private.token[];
begin
  if not exists (select from unnest(judged) as j where j.verdict <> 'start') then
    return;
  end if;
  with waiting as (
    update app.job_runs as r
    set token_at = case when j.verdict = 'delayed' then pg_catalog.clock_timestamp() end,
        available_at = case when j.verdict = 'delayed' then pg_catalog.clock_timestamp() + j.delay
          else r.available_at end
    from unnest(judged) as j
    where j.verdict <> 'start' and r.tenant_id = j.tenant_id and r.id = j.run_id
    returning j.verdict, app_private.token_of(r, 1) as token
  )
  select array_agg(x.token) filter (where x.verdict = 'delayed') into v_tokens from waiting as x;
  if v_tokens is not null then
    perform app_private.tokens_add(v_tokens);
  end if;
end
$$;

comment on function app_private.runs_wait is
  'What becomes of runs that may not start yet: a parked one has no token until one of its tenant ends, a delayed one has the '
  'next for the moment at which its rate lets it. No attempt is used.';

grant execute on function app_private.runs_wait to holdfast_system;
--! EndIncluded app_private/runs_wait.sql
--! Included app_private/runs_retell.sql
create or replace function app_private.runs_retell(
  tenant_ids uuid[], run_ids uuid[], judged app_private.job_verdict[], served text[], at timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
begin
  return app_private.tokens_add(array(
    select row(r.tenant_id, r.id, r.attempt, at + interval '1 second', 0)::app_private.token
    from (
      select distinct u.tenant_id, u.run_id from unnest(tenant_ids, run_ids) as u (tenant_id, run_id)) as w
    join app.job_runs as r on r.tenant_id = w.tenant_id and r.id = w.run_id
    where r.state in ('PENDING', 'FAILED')
      and r.token_at is not null
      and r.available_at <= at
      and r.kind <> all (served) is not true
      and not exists (select from unnest(judged) as j where j.run_id = r.id)));
end
$$;

comment on function app_private.runs_retell is
  'Queues a token again, for a second later, for each run that was to be claimed and was passed over because somebody held '
  'its row: the token that was just taken is the only one it has. '
  'served are the kinds of the worker (null: all); another worker tells its own. Answers how many.';

grant execute on function app_private.runs_retell to holdfast_system;
--! EndIncluded app_private/runs_retell.sql
--! Included app_private/starts_take.sql
create or replace function app_private.starts_take(judged app_private.job_verdict[], at timestamptz)
returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
begin
  update app.job_gates as g
  set starts_left = app_private.starts_left(
        g.starts_left, g.refilled_at, at, k.rate_per_minute, k.rate_burst) - s.starts,
      refilled_at = greatest(at, g.refilled_at)
  from (select j.tenant_id, j.kind, count(*) as starts
        from unnest(judged) as j where j.verdict = 'start' group by j.tenant_id, j.kind) as s
  join app.job_kinds as k on k.kind = s.kind and k.rate_per_minute is not null
  where g.tenant_id = s.tenant_id and g.kind = s.kind;
end
$$;

comment on function app_private.starts_take is
  'Takes what starts from the buckets of the kinds that have a rate. Under the locks of job_gates_lock.';

grant execute on function app_private.starts_take to holdfast_system;
--! EndIncluded app_private/starts_take.sql
--! Included app/job_claim.sql
set local role holdfast_system;

create or replace function app.job_claim(worker text, tenant_ids uuid[], run_ids uuid[])
returns table (
  tenant_id uuid, run_id uuid, attempt integer, kind text, slot bigint, timeout_ms integer,
  lease_until timestamptz, input jsonb, max_attempts integer, from_state text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
set row_security = on
as $$
declare
  v_judged app_private.job_verdict[];
  v_served constant text[] := (select w.kinds from app.job_workers as w where w.worker = job_claim.worker);
  v_now    timestamptz;
begin
  perform app_private.job_gates_lock(tenant_ids, run_ids);
  v_now := pg_catalog.clock_timestamp();

  v_judged := array(select j from app_private.job_judged(tenant_ids, run_ids, v_served, v_now) as j);
  perform app_private.runs_wait(v_judged);
  if pg_catalog.cardinality(v_judged) < pg_catalog.cardinality(run_ids) then
    perform app_private.runs_retell(tenant_ids, run_ids, v_judged, v_served, v_now);
  end if;
  perform app_private.starts_take(v_judged, v_now);

  return query
  update app.job_runs as r
  set state = 'RUNNING',
      attempt = r.attempt + 1,
      worker = job_claim.worker,
      token_at = coalesce(r.token_at, v_now),  -- a stale token may start one that is parked
      started_at = v_now,
      lease_until = v_now + interval '20 seconds',
      progress = null,
      progress_text = null,
      cancel_requested_at = null
  from unnest(v_judged) as j, app.job_kinds as k
  where j.verdict = 'start' and r.tenant_id = j.tenant_id and r.id = j.run_id and k.kind = r.kind
  returning r.tenant_id, r.id, r.attempt, r.kind, r.slot, k.timeout_seconds * 1000, r.lease_until, r.input,
            k.max_retries + 1, j.state;
end
$$;

comment on function app.job_claim is
  'Starts the next attempt of each of these runs, among all tenants, with a lease of 20 s that worker_beat extends; from_state is '
  'what the run was before. A run that is not answered has nothing to do: it is taken, has ended, or is not due; or it may not '
  'start yet, and has its next token.';

grant execute on function app.job_claim to holdfast_worker;

set local role holdfast_owner;
--! EndIncluded app/job_claim.sql
--! Included app/job_heartbeat.sql
create or replace function app.job_heartbeat(tenant_id uuid, ticket text, run_id uuid, attempt integer)
returns timestamptz
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_lease     timestamptz;
  v_cancelled boolean;
begin
  perform app.enter(tenant_id, ticket);

  -- A worker that beats for ever holds no run for ever: the lease ends with the time that its kind has.
  update app.job_runs as r
  set lease_until = least(pg_catalog.clock_timestamp() + interval '20 seconds',
                          r.started_at + pg_catalog.make_interval(secs => k.timeout_seconds + 20))
  from app.job_kinds as k
  where r.tenant_id = job_heartbeat.tenant_id
    and r.id = run_id
    and r.attempt = job_heartbeat.attempt
    and r.state = 'RUNNING'
    and k.kind = r.kind
  returning r.lease_until, r.cancel_requested_at is not null into v_lease, v_cancelled;
  if not found then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;
  if v_cancelled then
    perform app_private.job_cancelled(run_id);
  end if;

  return v_lease;
end
$$;

comment on function app.job_heartbeat is
  'Extends the lease of an attempt to 20 s from now, within the time of its kind. Raises JB101, JB201, and JB203 '
  'when its end was asked for.';

grant execute on function app.job_heartbeat to holdfast_worker, holdfast_service;
--! EndIncluded app/job_heartbeat.sql
--! Included app/job_progress.sql
create or replace function app.job_progress(
  tenant_id uuid, ticket text, run_id uuid, attempt integer, progress real, progress_text text default null)
returns void
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_cancelled boolean;
begin
  perform app.enter(tenant_id, ticket);
  if progress is null or progress not between 0 and 1 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', 'progress'),
      hint    = 'Progress is a number from 0 to 1.';
  end if;

  update app.job_runs as r
  set progress = job_progress.progress, progress_text = pg_catalog.left(job_progress.progress_text, 200)
  where r.tenant_id = job_progress.tenant_id
    and r.id = run_id
    and r.attempt = job_progress.attempt
    and r.state = 'RUNNING'
  returning r.cancel_requested_at is not null into v_cancelled;
  if not found then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;
  if v_cancelled then
    perform app_private.job_cancelled(run_id);
  end if;
end
$$;

comment on function app.job_progress is
  'Notes how much of an attempt is done, 0 to 1, and what it is at. Raises JB101, JB201, JB203 when its end was asked for, OP102.';

grant execute on function app.job_progress to holdfast_worker, holdfast_service;
--! EndIncluded app/job_progress.sql
--! Included app_private/failed_state.sql
create or replace function app_private.failed_state(run app.job_runs, kind app.job_kinds, error_code text)
returns text
language sql
immutable
return case
  when (run).cancel_requested_at is not null or error_code = 'job_cancelled' then 'DEAD_LETTER'
  when error_code = 'shutdown' then 'PENDING'
  when (run).failure_count >= (kind).max_retries or error_code = any ((kind).non_retryable_codes)
    or error_code ~ '^sqlstate_(22|23|42)'  -- the same data would fail again
    or error_code in ('job_input_invalid', 'job_transaction_lost')  -- and so would the same task
  then 'DEAD_LETTER'
  else 'FAILED' end;

comment on function app_private.failed_state is
  'What becomes of a run whose attempt ended with this error: PENDING when its worker was stopped, DEAD_LETTER when it was '
  'cancelled, when its retries are used up, or when the error is not one to try again; else FAILED.';
--! EndIncluded app_private/failed_state.sql
--! Included app/job_fail.sql
create or replace function app.job_fail(
  tenant_id uuid, ticket text, run_id uuid, attempt integer, error_code text, error text)
returns table (state text, available_at timestamptz)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_now timestamptz := pg_catalog.clock_timestamp();
begin
  perform app.enter(tenant_id, ticket);
  if coalesce(pg_catalog.length(error_code), 0) not between 1 and 100 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', 'error_code'),
      hint    = 'A failure has a name of 1 to 100 characters: people and metrics look for it.';
  end if;

  -- All from the row that is updated: whoever cancels it meanwhile is heard.
  update app.job_runs as r
  set state = app_private.failed_state(r, k, job_fail.error_code),
      failure_count = r.failure_count
        + (app_private.failed_state(r, k, job_fail.error_code) <> 'PENDING')::integer,
      error_code = case when r.cancel_requested_at is null then job_fail.error_code else 'job_cancelled' end,
      error = pg_catalog.left(job_fail.error, 2000),
      lease_until = null,
      available_at = v_now + case when app_private.failed_state(r, k, job_fail.error_code) = 'FAILED'
        then app_private.job_backoff(r.failure_count + 1, k.backoff_base_ms, k.backoff_cap_ms)
        else interval '0' end,
      token_at = v_now,
      finished_at = case
        when app_private.failed_state(r, k, job_fail.error_code) = 'DEAD_LETTER' then v_now end,
      discarded_at = case
        when r.cancel_requested_at is not null or job_fail.error_code = 'job_cancelled' then v_now end
  from app.job_kinds as k
  where r.tenant_id = job_fail.tenant_id
    and r.id = run_id
    and r.attempt = job_fail.attempt
    and r.state = 'RUNNING'
    and k.kind = r.kind
  returning r.state, r.available_at into state, available_at;
  if not found then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;

  if state <> 'DEAD_LETTER' then
    perform app_private.runs_token(array[tenant_id], array[run_id]);
  end if;
  return next;
end
$$;

comment on function app.job_fail is
  'Ends an attempt that failed: FAILED, with its next token after a wait that doubles, or DEAD_LETTER when '
  'its retries are used up or the code is not one to retry. The code shutdown is no failure: its worker was '
  'stopped, and the run is PENDING again, with a token at once. The code job_cancelled ends it for good, put aside. Raises JB101, JB201, OP102.';

grant execute on function app.job_fail to holdfast_worker;
--! EndIncluded app/job_fail.sql
--! Included app/job_kinds_missing.sql
create or replace function app.job_kinds_missing(kinds text[]) returns text[]
language plpgsql
stable
security definer  -- the shell may not read kinds
set search_path = ''
as $$
begin
  return array(
    select distinct w.kind
    from unnest(kinds) as w (kind)
    where not exists (select from app.job_kinds as k where k.kind = w.kind)
    order by w.kind);
end
$$;

comment on function app.job_kinds_missing is
  'Those of these kinds that app.job_kinds does not have: a worker does not start with a task that has no row. Knows no tenant.';

grant execute on function app.job_kinds_missing to holdfast_worker;
--! EndIncluded app/job_kinds_missing.sql
--! Included app/worker_beat.sql
set local role holdfast_system;

create or replace function app.worker_beat(
  worker text, pool text, host text, pid integer, version text, kinds text[], concurrency integer,
  tenant_ids uuid[], run_ids uuid[], attempts integer[])
returns table (tenant_id uuid, run_id uuid, attempt integer, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
set row_security = on
as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
begin
  insert into app.job_workers as w (worker, pool, host, pid, version, kinds, concurrency, running, seen_at)
  values (worker_beat.worker, worker_beat.pool, worker_beat.host, worker_beat.pid, worker_beat.version,
          worker_beat.kinds, worker_beat.concurrency, pg_catalog.cardinality(run_ids), v_now)
  on conflict on constraint job_workers_pkey do update
  set running = excluded.running, seen_at = excluded.seen_at;

  -- A run that is being ended at this moment is passed over: nobody waits for it.
  with mine as materialized (
    select r.tenant_id, r.id
    from unnest(tenant_ids, run_ids, attempts) as m (tenant_id, run_id, attempt)
    join app.job_runs as r
      on r.tenant_id = m.tenant_id and r.id = m.run_id and r.attempt = m.attempt and r.state = 'RUNNING'
    for no key update of r skip locked
  )
  update app.job_runs as r
  set lease_until = least(v_now + interval '20 seconds',
                          r.started_at + pg_catalog.make_interval(secs => k.timeout_seconds + 20))
  from mine as m, app.job_kinds as k
  where r.tenant_id = m.tenant_id and r.id = m.id and k.kind = r.kind;

  return query
  select m.tenant_id, m.run_id, m.attempt,
         case when r.attempt = m.attempt and r.state = 'RUNNING' then 'cancelled' else 'fenced' end
  from unnest(tenant_ids, run_ids, attempts) as m (tenant_id, run_id, attempt)
  left join app.job_runs as r on r.tenant_id = m.tenant_id and r.id = m.run_id
  where (r.attempt = m.attempt and r.state = 'RUNNING' and r.cancel_requested_at is null) is not true;
end
$$;

comment on function app.worker_beat is
  'A worker says that it lives, and what it runs, among all tenants: it is registered, and the leases of its attempts end 20 s '
  'from now, within the time of their kind. Answers the attempts that it must end: fenced, for the run went on without it, '
  'or cancelled.';

grant execute on function app.worker_beat to holdfast_worker;

set local role holdfast_owner;
--! EndIncluded app/worker_beat.sql
--! Included app/worker_stop.sql
set local role holdfast_system;

create or replace function app.worker_stop(worker text) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_pool text;
begin
  delete from app.job_workers as w where w.worker = worker_stop.worker returning w.pool into v_pool;
  return case when v_pool is null then 0 else app_private.tokens_unlock(array[v_pool]) end;
end
$$;

comment on function app.worker_stop is
  'A worker has ended in order: it is listed no more, and what it still held of the queue is given back, among all tenants. '
  'Answers how many tokens that were.';

grant execute on function app.worker_stop to holdfast_worker;

set local role holdfast_owner;
--! EndIncluded app/worker_stop.sql
--! Included app/workers_reap.sql
set local role holdfast_system;

create or replace function app.workers_reap()
returns table (worker text, host text, pid integer, tokens integer)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_lost app.job_workers;
begin
  for v_lost in
    delete from app.job_workers as w
    where w.worker in (
      select x.worker from app.job_workers as x
      where x.seen_at < pg_catalog.clock_timestamp() - interval '20 seconds'
      order by x.worker
      for update skip locked)
    returning w.*
  loop
    worker := v_lost.worker;
    host := v_lost.host;
    pid := v_lost.pid;
    tokens := app_private.tokens_unlock(array[v_lost.pool]);
    return next;
  end loop;
end
$$;

comment on function app.workers_reap is
  'Removes the workers that were not heard of for 20 s, and gives back the tokens that they held, among all tenants: their runs '
  'come back by their leases. One that still lives is registered again by its next beat; what it held is fenced.';

grant execute on function app.workers_reap to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/workers_reap.sql
--! Included app_private/cancels_force.sql
create or replace function app_private.cancels_force() returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ended integer;
begin
  with stubborn as materialized (
    select r.tenant_id, r.id
    from app.job_runs as r
    where r.state = 'RUNNING'
      and (r.cancel_requested_at < pg_catalog.clock_timestamp() - interval '15 seconds'
        or (r.cancel_requested_at is not null and r.lease_until < pg_catalog.clock_timestamp()))
    for no key update skip locked
  )
  update app.job_runs as r
  set state = 'DEAD_LETTER',
      error_code = 'job_cancelled',
      error = 'It was cancelled, and its worker did not end it.',
      lease_until = null,
      finished_at = pg_catalog.clock_timestamp(),
      discarded_at = pg_catalog.clock_timestamp()
  from stubborn as s
  where r.tenant_id = s.tenant_id and r.id = s.id and r.state = 'RUNNING';
  get diagnostics v_ended = row_count;
  return v_ended;
end
$$;

comment on function app_private.cancels_force is
  'Ends the runs that were cancelled and whose worker is lost, or has not ended them for 15 s: what it still does is fenced.';

grant execute on function app_private.cancels_force to holdfast_system;
--! EndIncluded app_private/cancels_force.sql
--! Included app/job_reap.sql
set local role holdfast_system;

create or replace function app.job_reap(max_rows integer default 500)
returns table (tenant_id uuid, run_id uuid, state text, error_code text, kind text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_reaped     app.job_runs[];
  v_run_ids    uuid[];
  v_tenant_ids uuid[];
begin
  perform app_private.cancels_force();

  with lost as materialized (
    select r.tenant_id, r.id, r.attempt,
           -- Of a tenant that was suspended meanwhile no attempt can write its end: that is no crash.
           r.crash_count + (t.status = 'ACTIVE')::integer as crashes
    from app.job_runs as r
    join app.tenants as t on t.tenant_id = r.tenant_id
    where r.state = 'RUNNING' and r.lease_until < pg_catalog.clock_timestamp()
      and r.cancel_requested_at is null  -- that one does not come back: cancels_force ends it
    order by r.lease_until
    limit max_rows
    for no key update of r skip locked
  ),
  back as (
    update app.job_runs as r
    set state = case when l.crashes >= 3 then 'DEAD_LETTER' else 'FAILED' end,
        crash_count = l.crashes,
        error_code = case when l.crashes >= 3 then 'poison' else 'worker_lost' end,
        error = 'The worker stopped beating before the attempt ended.',
        worker = null,
        lease_until = null,
        available_at = pg_catalog.clock_timestamp(),
        token_at = pg_catalog.clock_timestamp(),
        finished_at = case when l.crashes >= 3 then pg_catalog.clock_timestamp() end
    from lost as l
    where r.tenant_id = l.tenant_id and r.id = l.id and r.attempt = l.attempt
      and r.state = 'RUNNING' and r.lease_until < pg_catalog.clock_timestamp()
      and r.cancel_requested_at is null
    returning r.tenant_id, r.id, r.state, r as run
  )
  select array_agg(b.run),
         array_agg(b.id) filter (where b.state = 'FAILED'),
         array_agg(b.tenant_id) filter (where b.state = 'FAILED')
  into v_reaped, v_run_ids, v_tenant_ids
  from back as b;

  if v_run_ids is not null then
    perform app_private.runs_token(v_tenant_ids, v_run_ids);
  end if;
  return query select b.tenant_id, b.id, b.state, b.error_code, b.kind from unnest(v_reaped) as b;
end
$$;

comment on function app.job_reap is
  'Brings back the runs whose worker was lost, among all tenants: FAILED with a token at once, DEAD_LETTER '
  'after the third crash; ends those that were cancelled and went on for 15 s. Answers what became of each that was lost.';

grant execute on function app.job_reap to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/job_reap.sql
--! Included app/job_admit.sql
set local role holdfast_system;

create or replace function app.job_admit(
  max_pairs integer default 10000, after_tenant_id uuid default null, after_kind text default null)
returns table (admitted integer, last_tenant_id uuid, last_kind text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_ids uuid[];
  v_kinds      text[];
begin
  -- From one tenant and kind to the next by the index, however many runs of each are parked.
  with recursive parked as (
    (select r.tenant_id, r.kind, 1 as n
     from app.job_runs as r
     where r.state in ('PENDING', 'FAILED') and r.token_at is null
       and (after_tenant_id is null or (r.tenant_id, r.kind) > (after_tenant_id, after_kind))
     order by r.tenant_id, r.kind
     limit 1)
    union all
    select x.tenant_id, x.kind, p.n + 1
    from parked as p
    cross join lateral (
      select r.tenant_id, r.kind
      from app.job_runs as r
      where r.state in ('PENDING', 'FAILED') and r.token_at is null
        and (r.tenant_id, r.kind) > (p.tenant_id, p.kind)
      order by r.tenant_id, r.kind
      limit 1) as x
    where p.n < max_pairs
  )
  select array_agg(p.tenant_id order by p.n), array_agg(p.kind order by p.n) into v_tenant_ids, v_kinds
  from parked as p;

  if pg_catalog.cardinality(v_kinds) = max_pairs then
    last_tenant_id := v_tenant_ids[max_pairs];
    last_kind := v_kinds[max_pairs];
  end if;

  -- However long the round is: what has become due since the last look comes first.
  select v_tenant_ids || array_agg(d.tenant_id), v_kinds || array_agg(d.kind) into v_tenant_ids, v_kinds
  from (
    select r.tenant_id, r.kind
    from app.job_runs as r
    where r.state in ('PENDING', 'FAILED') and r.token_at is null
      and r.available_at between pg_catalog.now() - interval '5 seconds' and pg_catalog.now()
    order by r.available_at desc
    limit max_pairs) as d;

  admitted := case when v_kinds is null then 0 else app_private.runs_admit(v_tenant_ids, v_kinds) end;
  return next;
end
$$;

comment on function app.job_admit is
  'Admits the parked runs that are due and have a place, among all tenants: those of a later moment, those of a pause that has '
  'ended, and what two transactions overlooked in each other. Looks at max_pairs tenants and kinds after the given one, and at '
  'as many that have become due just now; answers how many it admitted and where to go on: null at the end.';

grant execute on function app.job_admit to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/job_admit.sql
--! Included app/tokens_repair.sql
set local role holdfast_system;

create or replace function app.tokens_repair(max_rows integer default 500)
returns table (looked_at integer, repaired integer)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_run_ids    uuid[];
  v_tenant_ids uuid[];
  v_keys       text[];
  v_wanted     text[];
begin
  with late as materialized (
    select r.tenant_id, r.id,
           r.slot is not null and r.token_at < r.available_at + interval '5 minutes'
             and r.available_at < pg_catalog.clock_timestamp() - interval '5 minutes' as aged
    from app.job_runs as r
    where r.state in ('PENDING', 'FAILED')
      and r.token_at < pg_catalog.clock_timestamp() - interval '15 seconds'
      and r.available_at < pg_catalog.clock_timestamp() - interval '15 seconds'
    order by r.token_at
    limit max_rows
    for no key update skip locked
  ),
  marked as (
    update app.job_runs as r
    set token_at = pg_catalog.clock_timestamp()
    from late as l
    where r.tenant_id = l.tenant_id and r.id = l.id and r.state in ('PENDING', 'FAILED')
    returning r.tenant_id, r.id, 'run:' || r.id || ':' || r.attempt as key, l.aged
  )
  select array_agg(m.id), array_agg(m.tenant_id), array_agg(m.key), array_agg(m.key) filter (where m.aged)
  into v_run_ids, v_tenant_ids, v_keys, v_wanted
  from marked as m;

  looked_at := coalesce(pg_catalog.cardinality(v_keys), 0);
  repaired := 0;
  if looked_at > 0 then
    v_wanted := v_wanted
      || app_private.tokens_missing(v_keys, array(select x.pool from app.job_workers as x));
    select array_agg(w.run_id), array_agg(w.tenant_id) into v_run_ids, v_tenant_ids
    from unnest(v_run_ids, v_tenant_ids, v_keys) as w (run_id, tenant_id, key)
    where w.key = any (v_wanted);
    repaired := app_private.runs_token(v_tenant_ids, v_run_ids);
  end if;
  return next;
end
$$;

comment on function app.tokens_repair is
  'Queues the token of every run that has waited 15 s since it was due and has none, among all tenants: losing one, or the '
  'whole queue, loses no run. Scheduled runs that have waited five minutes go first from then on. Looks at the '
  'max_rows that were looked at longest ago; answers how many it looked at and queued.';

grant execute on function app.tokens_repair to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/tokens_repair.sql
--! Included app_private/json_type_is.sql
create or replace function app_private.json_type_is(type text, value jsonb) returns boolean
language sql
immutable
parallel safe
return case type
  when 'integer' then pg_catalog.jsonb_typeof(value) = 'number'
    and case when pg_catalog.jsonb_typeof(value) = 'number'
      then value::numeric = pg_catalog.trunc(value::numeric) else false end
  else pg_catalog.jsonb_typeof(value) = type end;

comment on function app_private.json_type_is is
  'Whether a value is of a type of JSON Schema: 1.0 is an integer, and an integer is a number.';

grant execute on function app_private.json_type_is to holdfast_system;
--! EndIncluded app_private/json_type_is.sql
--! Included app_private/json_key.sql
create or replace function app_private.json_key(path text, name text) returns text
language sql
immutable
parallel safe
return path || case when name ~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$' then '.' || name
  else '[' || pg_catalog.to_json(pg_catalog.left(name, 63))::text || ']' end;

comment on function app_private.json_key is 'The path of a property: $.name, or $["a name"] where it is no identifier.';

grant execute on function app_private.json_key to holdfast_system;
--! EndIncluded app_private/json_key.sql
--! Included app_private/regex_matches.sql
create or replace function app_private.regex_matches(value text, pattern text) returns boolean
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
begin
  return value ~ pattern;
exception when invalid_regular_expression then
  return null;
end
$$;

comment on function app_private.regex_matches is
  'Whether a text matches a POSIX regular expression anywhere; null when the pattern is none.';

grant execute on function app_private.regex_matches to holdfast_system;
--! EndIncluded app_private/regex_matches.sql
--! Included app_private/json_text_fault.sql
create or replace function app_private.json_text_fault(schema jsonb, value text) returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  v_day    constant text := '\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])';
  v_format constant text := schema ->> 'format';
begin
  if pg_catalog.length(value) < (schema ->> 'minLength')::numeric then
    return pg_catalog.format('has fewer than %s characters', schema ->> 'minLength');
  elsif pg_catalog.length(value) > (schema ->> 'maxLength')::numeric then
    return pg_catalog.format('has more than %s characters', schema ->> 'maxLength');
  elsif v_format = 'uuid' and value !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    return 'is no uuid';
  elsif v_format = 'date' and value !~ ('^' || v_day || '$') then
    return 'is no date such as 2026-01-31';
  elsif v_format = 'date-time'
    and value !~* (
      '^' || v_day || 'T([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$')
  then
    return 'is no moment such as 2026-01-31T12:00:00Z';
  elsif (case when v_format in ('date', 'date-time') then pg_catalog.substr(value, 9, 2)::integer > extract(
      day from pg_catalog.make_date(greatest(1, pg_catalog.left(value, 4)::integer),
        pg_catalog.substr(value, 6, 2)::integer, 1) + interval '1 month - 1 day') end)
  then
    return 'is a day that its month does not have';
  elsif schema ? 'pattern' and app_private.regex_matches(value, schema ->> 'pattern') is not true then
    return pg_catalog.format('does not match %s', schema ->> 'pattern');
  end if;
  return null;
end
$$;

comment on function app_private.json_text_fault is
  'What is wrong with a text by its schema (minLength, maxLength, format, pattern); null when nothing is.';

grant execute on function app_private.json_text_fault to holdfast_system;
--! EndIncluded app_private/json_text_fault.sql
--! Included app_private/json_list_fault.sql
create or replace function app_private.json_list_fault(schema jsonb, value jsonb, path text) returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  v_length constant integer := pg_catalog.jsonb_array_length(value);
  v_fault  text;
begin
  if v_length < (schema ->> 'minItems')::numeric then
    return pg_catalog.format('%s: has fewer than %s items', path, schema ->> 'minItems');
  elsif v_length > (schema ->> 'maxItems')::numeric then
    return pg_catalog.format('%s: has more than %s items', path, schema ->> 'maxItems');
  elsif schema ? 'items' then
    for n in 0 .. v_length - 1 loop
      v_fault := app_private.json_fault(schema -> 'items', value -> n, path || '[' || n || ']');
      exit when v_fault is not null;
    end loop;
  end if;
  return v_fault;
end
$$;

comment on function app_private.json_list_fault is
  'What is wrong with an array by its schema (minItems, maxItems, items), with its path; null when nothing is.';

grant execute on function app_private.json_list_fault to holdfast_system;
--! EndIncluded app_private/json_list_fault.sql
--! Included app_private/json_object_fault.sql
create or replace function app_private.json_object_fault(schema jsonb, value jsonb, path text) returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  v_known constant jsonb := coalesce(schema -> 'properties', '{}');
  v_name  text;
  v_fault text;
begin
  v_name := (
    select r.name from pg_catalog.jsonb_array_elements_text(schema -> 'required') as r (name)
    where not value ? r.name limit 1);
  if v_name is not null then
    return app_private.json_key(path, v_name) || ': is missing';
  end if;

  if schema -> 'additionalProperties' = 'false' then
    v_name := (
      select k.name from pg_catalog.jsonb_object_keys(value) as k (name) where not v_known ? k.name limit 1);
    if v_name is not null then
      return app_private.json_key(path, v_name) || ': is not a property that there is';
    end if;
  end if;

  for v_name in select k.name from pg_catalog.jsonb_object_keys(v_known) as k (name) where value ? k.name loop
    v_fault := app_private.json_fault(v_known -> v_name, value -> v_name, app_private.json_key(path, v_name));
    exit when v_fault is not null;
  end loop;
  return v_fault;
end
$$;

comment on function app_private.json_object_fault is
  'What is wrong with an object by its schema (required, properties, additionalProperties), with its path; null when '
  'nothing is.';

grant execute on function app_private.json_object_fault to holdfast_system;
--! EndIncluded app_private/json_object_fault.sql
--! Included app_private/json_fault.sql
create or replace function app_private.json_fault(schema jsonb, value jsonb, path text default '$')
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  v_types constant jsonb := schema -> 'type';
  v_type  constant text := pg_catalog.jsonb_typeof(value);
  v_fault text;
begin
  if v_types is not null and not exists (
    select from pg_catalog.jsonb_path_query(v_types, 'lax $[*]') as t (name)
    where app_private.json_type_is(t.name #>> '{}', value))
  then
    return path || ': is no ' || (
      select pg_catalog.string_agg(t.name #>> '{}', ' or ')
      from pg_catalog.jsonb_path_query(v_types, 'lax $[*]') as t (name));
  elsif schema ? 'const' and schema -> 'const' <> value then
    return path || ': is not the one value that it may be';
  elsif schema ? 'enum' and not exists (
    select from pg_catalog.jsonb_array_elements(schema -> 'enum') as e (one) where e.one = value)
  then
    return path || ': is none of the values that it may be';
  end if;

  if v_type = 'object' then
    return app_private.json_object_fault(schema, value, path);
  elsif v_type = 'array' then
    return app_private.json_list_fault(schema, value, path);
  elsif v_type = 'string' then
    v_fault := app_private.json_text_fault(schema, value #>> '{}');
  elsif v_type = 'number' and value::numeric < (schema ->> 'minimum')::numeric then
    v_fault := pg_catalog.format('is less than %s', schema ->> 'minimum');
  elsif v_type = 'number' and value::numeric > (schema ->> 'maximum')::numeric then
    v_fault := pg_catalog.format('is more than %s', schema ->> 'maximum');
  end if;
  return path || ': ' || v_fault;
end
$$;

comment on function app_private.json_fault is
  'What is wrong with a value by a JSON Schema, as "$.path: what", never with a part of the value itself; null when nothing is. '
  'It knows type, properties, required, additionalProperties, enum, const, minLength, maxLength, minimum, maximum, pattern '
  '(POSIX), items, minItems, maxItems and format (uuid, date, date-time): app_private.json_schema_fault names what it does not.';

grant execute on function app_private.json_fault to holdfast_system;
--! EndIncluded app_private/json_fault.sql
--! Included app_private/json_keyword_fault.sql
create or replace function app_private.json_keyword_fault(keyword text, value jsonb) returns text
language sql
immutable
parallel safe
set search_path = ''
as $$
  select case
    when keyword in ('title', 'description', '$schema', 'default', 'examples', 'const') then null
    when keyword = 'type' then case when value = '[]' or exists (
        select from pg_catalog.jsonb_path_query(value, 'lax $[*]') as t (name)
        where t.name #>> '{}' not in ('object', 'array', 'string', 'number', 'integer', 'boolean', 'null'))
      then 'names a type that there is not' end
    when keyword in ('properties', 'items')
      then case when t.type <> 'object' then 'is no object' end
    when keyword = 'additionalProperties'
      then case when t.type <> 'boolean' then 'is neither true nor false' end
    when keyword = 'enum' then case when t.type <> 'array' or value = '[]' then 'is no list of values' end
    when keyword = 'required' then case
      when t.type <> 'array' or pg_catalog.jsonb_path_exists(value, '$[*] ? (@.type() <> "string")')
      then 'is no list of names' end
    when keyword in ('minLength', 'maxLength', 'minItems', 'maxItems')
      then case when not app_private.json_type_is('integer', value) or value < '0' then 'is no count' end
    when keyword in ('minimum', 'maximum') then case when t.type <> 'number' then 'is no number' end
    when keyword = 'pattern' then case
      when t.type <> 'string' or app_private.regex_matches('', value #>> '{}') is null
      then 'is no POSIX regular expression' end
    when keyword = 'format' then case
      when value #>> '{}' not in ('uuid', 'date', 'date-time') then 'is not uuid, date or date-time' end
    else 'is not known here' end
  from pg_catalog.jsonb_typeof(value) as t (type)
$$;

comment on function app_private.json_keyword_fault is
  'What is wrong with one keyword of a JSON Schema; null when app_private.json_fault heeds it, or may pass it over.';

grant execute on function app_private.json_keyword_fault to holdfast_system;
--! EndIncluded app_private/json_keyword_fault.sql
--! Included app_private/json_schema_fault.sql
create or replace function app_private.json_schema_fault(
  schema jsonb, path text default '$', depth integer default 0)
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  v_fault text;
  v_part  record;
begin
  if schema is null or pg_catalog.jsonb_typeof(schema) <> 'object' then
    return path || ': is no object';
  elsif depth > 16 then
    return path || ': is deeper than 16';
  end if;

  select app_private.json_key(path, k.key) || ': ' || f.fault into v_fault
  from pg_catalog.jsonb_each(schema) as k
  cross join lateral (select app_private.json_keyword_fault(k.key, k.value) as fault) as f
  where f.fault is not null
  limit 1;
  if v_fault is not null then
    return v_fault;
  end if;

  for v_part in
    select app_private.json_key(path, 'properties') as path, p.key, p.value
    from pg_catalog.jsonb_each(schema -> 'properties') as p
    union all
    select path, 'items', schema -> 'items' where schema ? 'items'
  loop
    v_fault := app_private.json_schema_fault(
      v_part.value, app_private.json_key(v_part.path, v_part.key), depth + 1);
    exit when v_fault is not null;
  end loop;
  return v_fault;
end
$$;

comment on function app_private.json_schema_fault is
  'Which part of a JSON Schema app_private.json_fault does not know, as "$.path: what"; null when it knows all of it. A schema is '
  'at most 16 deep.';

grant execute on function app_private.json_schema_fault to holdfast_system;
--! EndIncluded app_private/json_schema_fault.sql
--! Included app_private/job_request_check.sql
create or replace function app_private.job_request_check(
  kind text, input jsonb, run_at timestamptz, priority integer) returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  v_wrong text := case
    when kind is null then 'kind'
    when input is null or pg_catalog.octet_length(input::text) > 65536 then 'input'
    when run_at is null or run_at > pg_catalog.now() + interval '366 days' then 'run_at'
    when priority is null or priority not between -100 and 100 then 'priority' end;
begin
  if v_wrong is not null then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    =
        'A run has a kind, at most 64 kB of input, a moment at most 366 days ahead, and a priority of -100 to 100.';
  end if;
end
$$;

comment on function app_private.job_request_check is
  'Raises OP102 unless a run may be asked for at that moment, with that priority and that much input.';

grant execute on function app_private.job_request_check to holdfast_system;
--! EndIncluded app_private/job_request_check.sql
--! Included app_private/job_kind_check.sql
create or replace function app_private.job_kind_check(kind text, input jsonb, by_tenant boolean) returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  v_kind  app.job_kinds;
  v_fault text;
begin
  select k.* into v_kind from app.job_kinds as k where k.kind = job_kind_check.kind;
  if not found then
    raise exception using
      errcode = 'JB102',
      message = 'job_kind_unknown',
      detail  = pg_catalog.jsonb_build_object('kind', pg_catalog.left(kind, 63)),
      hint    = 'select * from app.job_kinds lists the kinds of job that there are.';
  elsif by_tenant and not v_kind.tenant_enqueues then
    raise exception using
      errcode = 'JB105',
      message = 'job_kind_not_enqueueable',
      detail  = pg_catalog.jsonb_build_object('kind', kind),
      hint    = 'Only the scheduler and people in psql make this kind; see app.job_kinds.tenant_enqueues.';
  end if;

  v_fault := app_private.json_fault(v_kind.input_schema, input);
  if v_fault is not null then
    raise exception using
      errcode = 'JB104',
      message = 'job_input_invalid',
      detail  = pg_catalog.jsonb_build_object(
        'kind', kind,
        'path', (pg_catalog.regexp_match(v_fault, '^(\$(?:\.\w+|\[\d+\]|\["(?:[^"\\]|\\.)*"\])*): '))[1],
        'fault', v_fault),
      hint    = 'The input is described by app.job_kinds.input_schema, a JSON Schema.';
  end if;
end
$$;

comment on function app_private.job_kind_check is
  'Raises unless a run of that kind may be asked for with that input: JB102 for a kind that is not there, JB105 where only the '
  'scheduler and people make it, JB104 for an input that breaks its schema.';

grant execute on function app_private.job_kind_check to holdfast_system;
--! EndIncluded app_private/job_kind_check.sql
--! Included app_private/job_kind_fault.sql
create or replace function app_private.job_kind_fault(kind app.job_kinds) returns text
language sql
immutable
parallel safe
set search_path = ''
as $$
  select case
    when coalesce((kind).kind, '') !~ '^[a-z][a-z0-9_]{0,62}$' then 'kind'
    when pg_catalog.length(pg_catalog.btrim(coalesce((kind).description, ''))) not between 3 and 500
      then 'description'
    when (kind).timeout_seconds not between 1 and 86400 then 'timeout_seconds'
    when (kind).max_retries not between 0 and 100 then 'max_retries'
    when (kind).backoff_base_ms not between 1 and 86400000 then 'backoff_base_ms'
    when (kind).backoff_cap_ms not between (kind).backoff_base_ms and 86400000 then 'backoff_cap_ms'
    when pg_catalog.cardinality((kind).non_retryable_codes) > 100
      or pg_catalog.array_position((kind).non_retryable_codes, null) is not null then 'non_retryable_codes'
    when (kind).max_running not between 1 and 1000 then 'max_running'
    when (kind).max_waiting not between 1 and 10000000 then 'max_waiting'
    when (kind).rate_per_minute not between 1 and 60000 then 'rate_per_minute'
    when (kind).rate_burst not between 1 and 10000 then 'rate_burst'
    when app_private.json_schema_fault((kind).input_schema) is not null
      then 'input_schema: ' || app_private.json_schema_fault((kind).input_schema) end
$$;

comment on function app_private.job_kind_fault is
  'Which setting of a kind is not one that it may have, and for its schema which part; null when it may be kept.';

grant execute on function app_private.job_kind_fault to holdfast_system;
--! EndIncluded app_private/job_kind_fault.sql
--! Included app_private/job_run_missing.sql
create or replace function app_private.job_run_missing() returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'JB101',
    message = 'job_run_not_found',
    hint    = 'Use the id of a run of this tenant; ops.jobs lists them.';
end
$$;

comment on function app_private.job_run_missing is 'Raises JB101, alike for a run that is not there and one of another tenant.';

grant execute on function app_private.job_run_missing to holdfast_system;
--! EndIncluded app_private/job_run_missing.sql
--! Included app_private/run_lock.sql
create or replace function app_private.run_lock(tenant_id uuid, run_id uuid) returns app.job_runs
language plpgsql
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  select r.* into v_run
  from app.job_runs as r
  where r.tenant_id = run_lock.tenant_id and r.id = run_lock.run_id
  for no key update;
  if not found then
    perform app_private.job_run_missing();
  end if;
  return v_run;
end
$$;

comment on function app_private.run_lock is 'Locks a run and answers it as it then stands. Raises JB101.';

grant execute on function app_private.run_lock to holdfast_system;
--! EndIncluded app_private/run_lock.sql
--! Included app_private/run_actor_check.sql
create or replace function app_private.run_actor_check(actor text, reason text) returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  perform app_private.reason_check(reason);
  if coalesce(pg_catalog.btrim(actor), '') = '' or pg_catalog.length(reason) > 500 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object(
        'argument', case when pg_catalog.length(reason) > 500 then 'reason' else 'actor' end),
      hint    = 'Say who does it, and why in at most 500 characters: the run keeps both.';
  end if;
end
$$;

comment on function app_private.run_actor_check is
  'Raises OP101 without a reason of at least 3 characters; OP102 without an actor, or for more than 500 characters.';

grant execute on function app_private.run_actor_check to holdfast_system;
--! EndIncluded app_private/run_actor_check.sql
--! Included app_private/run_not_dead.sql
create or replace function app_private.run_not_dead(run app.job_runs) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'JB205',
    message = 'job_not_dead',
    detail  = pg_catalog.jsonb_build_object('run_id', (run).id, 'state', (run).state),
    hint    = 'Only a run in the state DEAD_LETTER is replayed or put aside.';
end
$$;

comment on function app_private.run_not_dead is 'Raises JB205: the run is no dead letter.';

grant execute on function app_private.run_not_dead to holdfast_system;
--! EndIncluded app_private/run_not_dead.sql
--! Included app_private/run_superseded.sql
create or replace function app_private.run_superseded(run app.job_runs) returns boolean
language sql
stable
set search_path = ''
as $$
  -- No run is made before its turn begins, so those of newer turns have ids from there on.
  select (run).slot is not null and exists (
    select from app.job_runs as r
    where r.tenant_id = (run).tenant_id
      and r.id >= app_private.uuid_v7_floor(pg_catalog.to_timestamp((run).slot))
      and r.kind = (run).kind
      and r.slot > (run).slot
      and r.state = 'COMPLETED')
$$;

comment on function app_private.run_superseded is
  'Whether a newer turn of the same tenant and kind has completed: what the run would do again has been done since.';

grant execute on function app_private.run_superseded to holdfast_system;
--! EndIncluded app_private/run_superseded.sql
--! Included app_private/run_cancel.sql
create or replace function app_private.run_cancel(run app.job_runs, actor text, reason text, force boolean)
returns app.job_runs
language plpgsql
set search_path = ''
as $$
declare
  v_now   constant timestamptz := pg_catalog.clock_timestamp();
  v_waits constant boolean := (run).state = 'RUNNING' and not force;
  v_run   app.job_runs;
begin
  if (run).state = 'DEAD_LETTER' and (run).error_code = 'job_cancelled'
    or v_waits and (run).cancel_requested_at is not null
  then
    return run;
  elsif (run).finished_at is not null then
    raise exception using
      errcode = 'JB206',
      message = 'job_ended',
      detail  = pg_catalog.jsonb_build_object('run_id', (run).id, 'state', (run).state),
      hint    = 'It has ended already. A dead letter is put aside with job_discard.';
  end if;

  if v_waits then
    update app.job_runs as r
    set cancel_requested_at = v_now,
        actor = pg_catalog.left(run_cancel.actor, 100),
        reason = run_cancel.reason
    where r.tenant_id = (run).tenant_id and r.id = (run).id
    returning r.* into v_run;
  else
    -- An attempt that still runs is fenced: what it does from now on is rolled back.
    update app.job_runs as r
    set state = 'DEAD_LETTER',
        cancel_requested_at = coalesce(r.cancel_requested_at, v_now),
        error_code = 'job_cancelled',
        error = 'It was cancelled.',
        lease_until = null,
        finished_at = v_now,
        discarded_at = v_now,
        actor = pg_catalog.left(run_cancel.actor, 100),
        reason = run_cancel.reason
    where r.tenant_id = (run).tenant_id and r.id = (run).id
    returning r.* into v_run;
  end if;

  if v_waits then  -- the end itself has its event, whoever brings it about
    perform app_private.event_add((run).tenant_id, 'run.cancel_requested', (run).id,
      pg_catalog.jsonb_build_object('kind', (run).kind, 'actor', v_run.actor, 'reason', v_run.reason));
  end if;
  return v_run;
end
$$;

comment on function app_private.run_cancel is
  'Ends a locked run for good: at once when it waits, or with force, which fences its attempt; else its worker is told at its next '
  'beat, within 5 s. Cancelled once, it stays so: a second call changes nothing. Raises JB206 when it has ended otherwise.';

grant execute on function app_private.run_cancel to holdfast_system;
--! EndIncluded app_private/run_cancel.sql
--! Included app_private/run_replay.sql
create or replace function app_private.run_replay(
  run app.job_runs, actor text, reason text, due_at timestamptz)
returns app.job_runs
language plpgsql
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  -- It is parked: app_private.runs_admit gives it its place, with those that wait already. The attempt counts on.
  update app.job_runs as r
  set state = 'PENDING',
      failure_count = 0,
      crash_count = 0,
      replay_count = r.replay_count + 1,
      worker = null,
      available_at = due_at,
      token_at = null,
      finished_at = null,
      cancel_requested_at = null,
      discarded_at = null,
      progress = null,
      progress_text = null,
      actor = pg_catalog.left(run_replay.actor, 100),
      reason = run_replay.reason
  where r.tenant_id = (run).tenant_id and r.id = (run).id
  returning r.* into v_run;

  perform app_private.event_add((run).tenant_id, 'run.replayed', (run).id, pg_catalog.jsonb_build_object(
    'kind', (run).kind, 'actor', v_run.actor, 'reason', v_run.reason, 'replay', v_run.replay_count));
  return v_run;
end
$$;

comment on function app_private.run_replay is
  'Makes a locked dead letter pending again, as the same run with all its retries, due at due_at and parked until then.';

grant execute on function app_private.run_replay to holdfast_system;
--! EndIncluded app_private/run_replay.sql
--! Included app_private/run_discard.sql
create or replace function app_private.run_discard(run app.job_runs, actor text, reason text)
returns app.job_runs
language plpgsql
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  if (run).discarded_at is not null then
    return run;
  elsif (run).state <> 'DEAD_LETTER' then
    perform app_private.run_not_dead(run);
  end if;

  update app.job_runs as r
  set discarded_at = pg_catalog.clock_timestamp(),
      actor = pg_catalog.left(run_discard.actor, 100),
      reason = run_discard.reason
  where r.tenant_id = (run).tenant_id and r.id = (run).id
  returning r.* into v_run;

  perform app_private.event_add((run).tenant_id, 'run.discarded', (run).id, pg_catalog.jsonb_build_object(
    'kind', (run).kind, 'actor', v_run.actor, 'reason', v_run.reason));
  return v_run;
end
$$;

comment on function app_private.run_discard is
  'Puts a locked dead letter aside: it is kept, and no longer one to look at. A second call changes nothing. Raises JB205.';

grant execute on function app_private.run_discard to holdfast_system;
--! EndIncluded app_private/run_discard.sql
--! Included app/job_enqueue.sql
create or replace function app.job_enqueue(
  tenant_id uuid, ticket text, kind text, input jsonb default '{}', run_at timestamptz default now(),
  idempotency_key text default null, priority integer default 0)
returns table (run_id uuid, state text, available_at timestamptz, created_at timestamptz, replayed boolean)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_now    constant timestamptz := pg_catalog.now();
  v_run_id constant uuid := app_private.uuid_v7();
  v_known  uuid;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.job_request_check(kind, input, run_at, priority);

  -- The moment counts only where one was named: "now" is another one each time that a caller tries again.
  v_known := app_private.job_run_key_take(tenant_id, idempotency_key, v_run_id, pg_catalog.jsonb_build_array(
    'job', kind, input, case when run_at <> v_now then extract(epoch from run_at) end, priority)::text);
  if v_known is null then
    perform app_private.job_kind_check(kind, input, by_tenant => true);
    perform app_private.run_add(
      tenant_id, v_run_id, kind, input, greatest(run_at, v_now), priority::smallint);
    perform app_private.tenant_active(tenant_id);
  end if;

  return query
  select r.id, r.state, r.available_at, r.created_at, v_known is not null
  from app.job_runs as r
  where r.tenant_id = job_enqueue.tenant_id and r.id = coalesce(v_known, v_run_id);
end
$$;

comment on function app.job_enqueue is
  'Asks for a run, in the transaction of the caller: with it, it is there or not. run_at is at most 366 days ahead; the lowest '
  'priority, -100 to 100, goes first among the tenant''s own. The same key with the same request answers the first run again, '
  'replayed. Raises JB102, JB103, JB104, JB105, LB103, OP102.';

grant execute on function app.job_enqueue to holdfast_service, holdfast_worker;
--! EndIncluded app/job_enqueue.sql
--! Included app/job_list.sql
create or replace function app.job_list(
  tenant_id uuid, ticket text, state text default null, kind text default null, max_rows integer default 50,
  before uuid default null)
returns table (
  run_id uuid, run_kind text, run_state text, slot bigint, attempt integer, priority smallint,
  progress real, progress_text text, error_code text, error text, available_at timestamptz,
  created_at timestamptz, started_at timestamptz, finished_at timestamptz, cancel_requested_at timestamptz,
  discarded_at timestamptz)
language plpgsql
security definer  -- the service role may not read runs
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  if not coalesce(state in ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'DEAD_LETTER'), true)
    or coalesce(max_rows, 0) not between 1 and 200
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object(
        'argument', case when coalesce(max_rows, 0) between 1 and 200 then 'state' else 'max_rows' end),
      hint    = 'state is PENDING, RUNNING, COMPLETED, FAILED or DEAD_LETTER; max_rows is 1 to 200.';
  end if;

  return query
  select r.id, r.kind, r.state, r.slot, r.attempt, r.priority, r.progress, r.progress_text, r.error_code,
         r.error, r.available_at, r.created_at, r.started_at, r.finished_at, r.cancel_requested_at,
         r.discarded_at
  from app.job_runs as r
  where r.tenant_id = job_list.tenant_id
    and r.id < coalesce(job_list.before, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    and (job_list.state is null or r.state = job_list.state)
    and (job_list.kind is null or r.kind = job_list.kind)
  order by r.id desc
  limit job_list.max_rows;
end
$$;

comment on function app.job_list is
  'The runs of a tenant, newest first, of one state or kind where one is named; before goes on after a page: the last id of it. '
  'Raises OP102.';

grant execute on function app.job_list to holdfast_service, holdfast_worker;
--! EndIncluded app/job_list.sql
--! Included app/job_get.sql
create or replace function app.job_get(tenant_id uuid, ticket text, run_id uuid)
returns table (
  kind text, state text, slot bigint, attempt integer, failure_count integer, crash_count integer,
  replay_count integer, priority smallint, progress real, progress_text text, input jsonb, result jsonb,
  error_code text, error text, available_at timestamptz, created_at timestamptz, started_at timestamptz,
  finished_at timestamptz, cancel_requested_at timestamptz, discarded_at timestamptz, actor text, reason text,
  events jsonb)
language plpgsql
security definer  -- the service role may not read runs
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  return query
  select r.kind, r.state, r.slot, r.attempt, r.failure_count, r.crash_count, r.replay_count, r.priority,
         r.progress, r.progress_text, r.input, r.result, r.error_code, r.error, r.available_at, r.created_at,
         r.started_at, r.finished_at, r.cancel_requested_at, r.discarded_at, r.actor, r.reason,
         coalesce(e.events, '[]')
  from app.job_runs as r
  left join lateral (
    select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
             'at', x.created_at, 'from', x.from_state, 'to', x.to_state,
             'attempt', x.attempt, 'actor', x.actor, 'reason', x.reason) order by x.id) as events
    from app.job_run_events as x
    where x.tenant_id = r.tenant_id and x.run_id = r.id) as e on true
  where r.tenant_id = job_get.tenant_id and r.id = job_get.run_id;

  if not found then
    perform app_private.job_run_missing();
  end if;
end
$$;

comment on function app.job_get is
  'A run as it stands, with its changes of state, oldest first. Raises JB101, alike for an absent and a foreign id.';

grant execute on function app.job_get to holdfast_service, holdfast_worker;
--! EndIncluded app/job_get.sql
--! Included app/job_cancel.sql
create or replace function app.job_cancel(
  tenant_id uuid, ticket text, run_id uuid, actor text, reason text, force boolean default false)
returns table (state text, cancel_requested_at timestamptz, finished_at timestamptz, from_state text)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_found app.job_runs;
  v_run   app.job_runs;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.run_actor_check(actor, reason);

  v_found := app_private.run_lock(tenant_id, run_id);
  v_run := app_private.run_cancel(v_found, actor, reason, coalesce(force, false));
  return query select v_run.state, v_run.cancel_requested_at, v_run.finished_at,
                      nullif(v_found.state, v_run.state);
end
$$;

comment on function app.job_cancel is
  'Ends a run: at once while it waits, within 20 s while it runs, or at once with force, which drops what it has done. Answers '
  'how it stands, and in from_state what it was before, null where that is the same; a second call changes nothing. Raises '
  'JB101, JB206 when it has ended otherwise, OP101, OP102.';

grant execute on function app.job_cancel to holdfast_service, holdfast_worker;
--! EndIncluded app/job_cancel.sql
--! Included app/job_replay.sql
create or replace function app.job_replay(
  tenant_id uuid, ticket text, run_id uuid, actor text, reason text, force boolean default false)
returns table (state text, available_at timestamptz, replay_count integer)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.run_actor_check(actor, reason);

  v_run := app_private.run_lock(tenant_id, run_id);
  if v_run.state <> 'DEAD_LETTER' then
    perform app_private.run_not_dead(v_run);
  elsif force is not true and app_private.run_superseded(v_run) then
    raise exception using
      errcode = 'JB204',
      message = 'replay_superseded',
      detail  = pg_catalog.jsonb_build_object('run_id', run_id, 'slot', v_run.slot),
      hint    = 'A newer turn of the same kind has completed since. force replays this one all the same.';
  end if;

  v_run := app_private.run_replay(v_run, actor, reason, pg_catalog.clock_timestamp());
  perform app_private.runs_admit(array[tenant_id], array[v_run.kind]);
  return query select v_run.state, v_run.available_at, v_run.replay_count;
end
$$;

comment on function app.job_replay is
  'Makes a dead letter of the tenant pending again, as the same run, with all its retries. Raises JB101, JB204 when a newer turn '
  'of its kind has completed, unless forced, JB205 when it is no dead letter, OP101, OP102.';

grant execute on function app.job_replay to holdfast_service, holdfast_worker;
--! EndIncluded app/job_replay.sql
--! Included app/job_discard.sql
create or replace function app.job_discard(tenant_id uuid, ticket text, run_id uuid, actor text, reason text)
returns table (state text, discarded_at timestamptz)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.run_actor_check(actor, reason);

  v_run := app_private.run_discard(app_private.run_lock(tenant_id, run_id), actor, reason);
  return query select v_run.state, v_run.discarded_at;
end
$$;

comment on function app.job_discard is
  'Puts a dead letter of the tenant aside. A second call changes nothing. Raises JB101, JB205, OP101, OP102.';

grant execute on function app.job_discard to holdfast_service, holdfast_worker;
--! EndIncluded app/job_discard.sql
--! Included app/job_sweep.sql
set local role holdfast_system;

create or replace function app.job_sweep(max_rows integer default 20000) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_slots integer;
  v_keys  integer;
begin
  with old as materialized (
    select s.tenant_id, s.kind, s.slot
    from app.job_slots as s
    where s.slot < extract(epoch from pg_catalog.now() - interval '2 days')::bigint
      -- The scheduler reads the last one of each tenant and kind.
      and exists (
        select from app.job_slots as n
        where n.tenant_id = s.tenant_id and n.kind = s.kind and n.slot > s.slot)
    order by s.slot
    limit max_rows
    for no key update of s skip locked
  )
  delete from app.job_slots as s
  using old as o
  where s.tenant_id = o.tenant_id and s.kind = o.kind and s.slot = o.slot;
  get diagnostics v_slots = row_count;

  with old as materialized (
    select k.tenant_id, k.idempotency_key
    from app.job_run_keys as k
    where k.created_at < pg_catalog.now() - interval '30 days'
    order by k.created_at
    limit max_rows
    for no key update skip locked
  )
  delete from app.job_run_keys as k
  using old as o
  where k.tenant_id = o.tenant_id and k.idempotency_key = o.idempotency_key;
  get diagnostics v_keys = row_count;
  return v_slots + v_keys;
end
$$;

comment on function app.job_sweep is
  'Removes the slots of more than two days ago but for the last of each tenant and kind, and the idempotency keys of runs '
  'after 30 days, among all tenants, max_rows of each at a time; answers how many. Never a row of app.job_gates: who claims '
  'looks a gate up and then locks it, and one that vanished in between would hold nobody back; there is one for each tenant '
  'and kind at most.';

grant execute on function app.job_sweep to holdfast_worker, holdfast_owner;

set local role holdfast_owner;
--! EndIncluded app/job_sweep.sql
--! Included app/schedules.sql
create table if not exists app.schedules (
  tier             text        not null,
  shard            smallint    not null,
  next_run_at      timestamptz not null default now(),
  last_slot        bigint,
  open_slot        bigint,
  resume_after     uuid,
  missed_slots     bigint      not null default 0,

  constraint schedules_pkey primary key (tier, shard),
  constraint schedules_tier_fkey foreign key (tier) references app.tiers (tier) on delete restrict,
  constraint schedules_shard_known check (shard between 0 and 255),
  constraint schedules_resume_iff_open check ((open_slot is null) = (resume_after is null)),
  constraint schedules_missed_slots_positive check (missed_slots >= 0)
);

create index if not exists schedules_next_run_at_tier_shard_idx on app.schedules (next_run_at, tier, shard);

comment on table app.schedules is
  'When each tier and shard is due. One row stands for all its tenants, so that a tick locks few rows.';
comment on column app.schedules.tier is 'The cohort; app.tiers says how often.';
comment on column app.schedules.shard is
  '0 to 255; shards of a tier are due one after the other, a 256th of its period apart.';
comment on column app.schedules.next_run_at is 'Due from this moment on.';
comment on column app.schedules.last_slot is
  'When the last turn began that was taken or given up, in seconds since 1970; null before the first.';
comment on column app.schedules.open_slot is
  'A turn that has more tenants than one tick makes runs for; the next tick goes on.';
comment on column app.schedules.resume_after is 'The tenant up to which the open turn has come.';
comment on column app.schedules.missed_slots is 'How many turns passed without runs of their own, since ever.';

insert into app.schedules (tier, shard)
select t.tier, s.shard from app.tiers as t cross join generate_series(0, 255) as s (shard)
on conflict on constraint schedules_pkey do nothing;

grant select, update on app.schedules to holdfast_system;
--! EndIncluded app/schedules.sql
--! Included app/tenant_schedules.sql
create table if not exists app.tenant_schedules (
  tenant_id    uuid        not null,
  every        interval,
  daily_at     time,
  next_run_at  timestamptz not null,
  last_slot    bigint,
  missed_slots bigint      not null default 0,

  constraint tenant_schedules_pkey primary key (tenant_id),
  constraint tenant_schedules_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint tenant_schedules_every_or_daily check ((every is null) <> (daily_at is null)),
  constraint tenant_schedules_every_sane check (every >= interval '1 minute' and every <= interval '31 days'),
  constraint tenant_schedules_every_without_months
    check (extract(month from every) = 0 and extract(year from every) = 0),
  constraint tenant_schedules_missed_slots_positive check (missed_slots >= 0)
);

create index if not exists tenant_schedules_next_run_at_idx on app.tenant_schedules (next_run_at);

comment on table app.tenant_schedules is
  'Tenants with turns of their own instead of those of their cohort; the policies of the cohort hold for them too.';
comment on column app.tenant_schedules.tenant_id is 'Whose turns they are.';
comment on column app.tenant_schedules.every is 'The time between two turns; null for daily ones.';
comment on column app.tenant_schedules.daily_at is
  'The time of day in the tenant''s time zone: once on each date, also on those on which clocks change. Null otherwise.';
comment on column app.tenant_schedules.next_run_at is 'Due from this moment on.';
comment on column app.tenant_schedules.last_slot is 'When the last turn began, in seconds since 1970.';
comment on column app.tenant_schedules.missed_slots is 'How many turns passed without a run of their own, since ever.';

call app_private.isolate('app.tenant_schedules', for_system => true);
grant select, insert, update, delete on app.tenant_schedules to holdfast_system;
--! EndIncluded app/tenant_schedules.sql
--! Included app_private/cohort_turns.sql
-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.cohort_turns') is null then
    create type app_private.cohort_turns as (
      cohort     text,
      runs       bigint,
      shards     bigint,
      overlapped bigint,
      duplicates bigint
    );
  end if;
end
$$;

comment on type app_private.cohort_turns is
  'What a tick did in a cohort: the runs it made, the shards it dealt with, the turns that tenants did not have because those '
  'before had not ended, and those that they had already.';
--! EndIncluded app_private/cohort_turns.sql
--! Included app_private/slot_of.sql
create or replace function app_private.slot_of(at timestamptz, every interval, shard smallint)
returns table (slot bigint, next_run_at timestamptz, seconds bigint)
language sql
stable
begin atomic
  -- Shard k is due k/256 of a period after its start, so that all tenants of a tier are never due at once.
  select s.turn * p.seconds + p.phase, pg_catalog.to_timestamp((s.turn + 1) * p.seconds + p.phase), p.seconds
  from (select e.seconds, shard * e.seconds / 256 as phase
        from (select pg_catalog.floor(extract(epoch from every))::bigint as seconds) as e) as p
  cross join lateral (
    select pg_catalog.floor(
      (pg_catalog.floor(extract(epoch from at)) - p.phase) / p.seconds)::bigint as turn) as s;
end;

comment on function app_private.slot_of is
  'Which turn of a shard a moment belongs to, as the second since 1970 in which it began; the moment of the next one, '
  'always the first boundary after the given one; and the seconds between two.';

grant execute on function app_private.slot_of to holdfast_system;
--! EndIncluded app_private/slot_of.sql
--! Included app_private/turn_due.sql
create or replace function app_private.turn_due(
  cohort app.tiers, at timestamptz, newest bigint, next_run_at timestamptz, seconds bigint, last_slot bigint)
returns table (slot bigint, missed bigint, counted bigint, taken bigint, then_at timestamptz)
language sql
immutable
begin atomic
  select case when x.runs then newest - x.back * seconds end,
         case when x.runs then x.between - x.back else 0 end,
         case when x.runs then x.between - x.back when newest > last_slot then x.between + 1 else 0 end,
         newest - x.back * seconds,
         case when x.back > 0 then at else next_run_at end
  from (
    select b.between,
           -- Below last_slot the clock has gone back: those turns were there already.
           coalesce(newest >= last_slot, true) and (cohort.missed <> 'skip'
             or extract(epoch from at) - newest <= extract(epoch from cohort.skip_after)) as runs,
           case when cohort.missed = 'all' then least(b.between, cohort.missed_max) else 0 end as back
    from (select coalesce(greatest(
            0, pg_catalog.ceil((newest - last_slot)::numeric / seconds)::bigint - 1), 0) as between
    ) as b) as x;
end;

comment on function app_private.turn_due is
  'What the policy of a cohort for missed turns makes of a turn that is due. newest is the slot that the moment belongs to, '
  'last_slot the last one that was dealt with. Answers the slot to make runs for (null: none), how many turns before it '
  'are given up and how many are to be counted as missed, up to which slot all is dealt with then, and when to look again.';

grant execute on function app_private.turn_due to holdfast_system;
--! EndIncluded app_private/turn_due.sql
--! Included app_private/turn_overlaps.sql
create or replace function app_private.turn_overlaps(cohort app.tiers) returns bigint
language sql
immutable
parallel safe
return case cohort.overlap
  when 'skip' then 0
  when 'queue' then case when cohort.missed = 'all' then cohort.missed_max else 1 end end;

comment on function app_private.turn_overlaps is
  'How many turns of a tenant may not have ended when the next is made; null: any number, for they are cancelled. With '
  'queue that is the one at work, so that one waits; when all missed turns are made, up to missed_max of them wait.';

grant execute on function app_private.turn_overlaps to holdfast_system;
--! EndIncluded app_private/turn_overlaps.sql
--! Included app_private/turn_tenants.sql
create or replace function app_private.turn_tenants(
  cohort app.tiers, shard smallint, resume_after uuid, max_rows integer)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
begin
  return array(
    select t.tenant_id
    from app.tenants as t
    where t.tier = cohort.tier
      and t.shard = turn_tenants.shard
      and t.tenant_id > coalesce(turn_tenants.resume_after, '00000000-0000-0000-0000-000000000000')
      and t.status = 'ACTIVE'
      and t.jobs_paused_at is null
      and not exists (select from app.tenant_schedules as s where s.tenant_id = t.tenant_id)
    order by t.tenant_id
    limit max_rows);
end
$$;

comment on function app_private.turn_tenants is
  'The tenants of a shard, after the one named, that take part in its turns: active, not paused, and without turns of their '
  'own.';

grant execute on function app_private.turn_tenants to holdfast_system;
--! EndIncluded app_private/turn_tenants.sql
--! Included app_private/turns_open.sql
create or replace function app_private.turns_open(tenant_ids uuid[])
returns table (tenant_id uuid, turns bigint)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
as $$
begin
  return query
  select r.tenant_id, count(distinct r.slot)
  from app.job_runs as r
  join app.job_kinds as k on k.kind = r.kind
  where (k.paused_at is null or not exists (
      select from app.job_kinds as e
      where e.slot_order < k.slot_order
        and (e.kind <> 'cost_import'
          or exists (select from app.cost_sources as s where s.tenant_id = r.tenant_id))))
    and r.tenant_id = any (turns_open.tenant_ids) and r.state in ('PENDING', 'RUNNING', 'FAILED')
    and r.slot is not null
  group by r.tenant_id;
end
$$;

comment on function app_private.turns_open is
  'How many turns of these tenants have not ended: those with a run of any kind that has not, but for kinds that are paused '
  'and come after others: their pause must not keep the others from the next turn. No row for a tenant without.';

grant execute on function app_private.turns_open to holdfast_system;
--! EndIncluded app_private/turns_open.sql
--! Included app_private/turns_fit.sql
create or replace function app_private.turns_fit(tenant_ids uuid[], at_most bigint) returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_full uuid[];
begin
  if at_most is null or pg_catalog.cardinality(tenant_ids) = 0 then
    return tenant_ids;
  end if;
  v_full := array(
    select o.tenant_id from app_private.turns_open(tenant_ids) as o where o.turns > at_most);
  if pg_catalog.cardinality(v_full) = 0 then
    return tenant_ids;
  end if;
  return array(
    select w.tenant_id from unnest(tenant_ids) as w (tenant_id)
    where w.tenant_id not in (select f.tenant_id from unnest(v_full) as f (tenant_id)));
end
$$;

comment on function app_private.turns_fit is
  'Those of these tenants that have no more than so many turns that have not ended; all of them for null.';

grant execute on function app_private.turns_fit to holdfast_system;
--! EndIncluded app_private/turns_fit.sql
--! Included app_private/turns_cancel.sql
create or replace function app_private.turns_cancel(tenant_ids uuid[], cohorts text[], slots bigint[])
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ended integer;
begin
  if not exists (select from app.tiers as c where c.overlap = 'cancel') then
    return 0;
  end if;

  with late as materialized (
    select r.tenant_id, r.id
    from unnest(tenant_ids, cohorts, slots) as w (tenant_id, cohort, slot)
    join app.tiers as c on c.tier = w.cohort and c.overlap = 'cancel'
    join app.job_runs as r on r.tenant_id = w.tenant_id and r.slot < w.slot
      and r.state in ('PENDING', 'RUNNING', 'FAILED') and r.cancel_requested_at is null
    order by r.tenant_id, r.id
    for no key update of r skip locked
  )
  update app.job_runs as r
  set state = case r.state when 'RUNNING' then 'RUNNING' else 'DEAD_LETTER' end,
      cancel_requested_at = case r.state when 'RUNNING' then pg_catalog.clock_timestamp() end,
      error_code = case r.state when 'RUNNING' then r.error_code else 'job_cancelled' end,
      error = case r.state when 'RUNNING' then r.error else 'The next turn began before it ended.' end,
      finished_at = case r.state when 'RUNNING' then null else pg_catalog.clock_timestamp() end,
      discarded_at = case r.state when 'RUNNING' then null else pg_catalog.clock_timestamp() end,
      actor = 'scheduler',
      reason = 'The next turn began before it ended.'
  from late as l
  where r.tenant_id = l.tenant_id and r.id = l.id;
  get diagnostics v_ended = row_count;
  return v_ended;
end
$$;

comment on function app_private.turns_cancel is
  'Ends the runs of earlier turns of these tenants where the cohort says so (overlap cancel): those that wait at once, those '
  'that run are asked to. What a worker starts or ends at this moment is left to it. Answers how many.';

grant execute on function app_private.turns_cancel to holdfast_system;
--! EndIncluded app_private/turns_cancel.sql
--! Included app_private/turns_make.sql
create or replace function app_private.turns_make(
  tenant_ids uuid[], cohorts text[], slots bigint[], missed bigint[])
returns app_private.cohort_turns[]
language plpgsql
set search_path = ''
set plan_cache_mode = force_custom_plan  -- one run or fifty thousand: a plan for ten would not end
set work_mem = '32MB'
as $$
declare
  v_kinds  app.job_kinds[] := array(
    select k from app.job_kinds as k where k.slot_order is not null order by k.slot_order);
  v_second text;             -- the first one of tenants without a source of costs
  v_busy   uuid[];           -- who has runs that have not ended, and maybe no place left
  v_made   app_private.cohort_turns[] := array[]::app_private.cohort_turns[];
  v_batch  record;
begin
  if coalesce(tenant_ids, '{}') = '{}' or v_kinds = '{}' then return v_made; end if;
  v_second := case when v_kinds[1].kind = 'cost_import' then v_kinds[2].kind else v_kinds[1].kind end;
  perform app_private.turns_cancel(tenant_ids, cohorts, slots);
  v_busy := array(
    select distinct r.tenant_id from app.job_runs as r
    where r.tenant_id = any (tenant_ids) and r.state in ('PENDING', 'RUNNING', 'FAILED'));

  for v_batch in
    with taken as (
      insert into app.job_slots (tenant_id, kind, slot, run_id)
      select w.tenant_id, case when f.sourced then v_kinds[1].kind else v_second end, w.slot,
             app_private.uuid_v7()
      from unnest(tenant_ids, slots) as w (tenant_id, slot)
      cross join lateral (
        select w.tenant_id in (select s.tenant_id from app.cost_sources as s) as sourced) as f
      -- Its source may be newer than the turn.
      where (f.sourced or v_second is not null) and not (f.sourced and exists (
        select from app.job_slots as j where j.tenant_id = w.tenant_id and j.kind = v_second
          and j.slot = w.slot))
      order by w.tenant_id
      on conflict on constraint job_slots_pkey do nothing returning tenant_id, kind, slot, run_id
    ),
    made as (
      insert into app.job_runs as r (tenant_id, id, kind, slot, input, token_at, token_rank)
      select t.tenant_id, t.run_id, t.kind, t.slot,
             case w.missed when 0 then '{}' else pg_catalog.jsonb_build_object('missed_slots', w.missed) end,
             case when p.rank is not null then pg_catalog.clock_timestamp() end, coalesce(p.rank, 0)
      from taken as t
      join unnest(tenant_ids, missed) as w (tenant_id, missed) on w.tenant_id = t.tenant_id
      join unnest(v_kinds) as k on k.kind = t.kind
      cross join lateral (select case
        when k.paused_at is not null then null
        when t.tenant_id <> all (v_busy) then 0
        else (select min(f.rank) from app_private.job_places(array[t.tenant_id], array[t.kind]) as f)
        end::smallint as rank) as p
      order by t.tenant_id
      returning r.*
    )
    select row(c.tier, count(m.id), 0, 0, count(*) filter (where m.id is null and (
             v_second is not null or w.tenant_id in (select s.tenant_id from app.cost_sources as s)))
           )::app_private.cohort_turns as turns,
           array_agg(app_private.token_of(m, c.weight)) filter (where m.token_at is not null) as tokens
    from unnest(tenant_ids, cohorts) as w (tenant_id, cohort)
    left join made as m on m.tenant_id = w.tenant_id
    join app.tiers as c on c.tier = w.cohort
    group by c.tier
  loop
    v_made := v_made || v_batch.turns;
    perform app_private.tokens_add(v_batch.tokens) where v_batch.tokens is not null;
  end loop;
  return v_made;
end
$$;

comment on function app_private.turns_make is
  'Makes the first run of a turn of each of these tenants, with its token, once for each tenant and slot; a tenant comes '
  'once. Answers for each cohort the runs, and as duplicates the turns that tenants had already. The kind is the first that '
  'applies: cost_import is for tenants with a row in app.cost_sources. That of a paused kind is made all the same and waits '
  'without a token, as at any other pause: its turn goes on when the pause ends. missed is what its input says of turns that were given up for it.';

grant execute on function app_private.turns_make to holdfast_system;
--! EndIncluded app_private/turns_make.sql
--! Included app_private/shard_take.sql
create or replace function app_private.shard_take(at timestamptz, max_rows integer, since timestamptz)
returns table (
  due_at timestamptz, cohort text, slot bigint, missed bigint, tenant_ids uuid[], overlapped integer,
  again boolean)
language plpgsql
set search_path = ''
as $$
declare
  v_shard  app.schedules;
  v_cohort app.tiers;
  v_slot   record;
  v_turn   record;
  v_last   uuid;
  v_more   boolean;
begin
  -- One row at a time, and what another tick holds is skipped: what this one does not reach is free for others.
  select s.* into v_shard
  from app.schedules as s
  where s.next_run_at <= at and s.next_run_at >= since
    and exists (select from app.tiers as c where c.tier = s.tier and c.paused_at is null)
  order by s.next_run_at, s.tier, s.shard
  limit 1
  for no key update of s skip locked;
  if not found then
    return;
  end if;
  select c.* into v_cohort from app.tiers as c where c.tier = v_shard.tier;
  due_at := v_shard.next_run_at;
  cohort := v_shard.tier;
  tenant_ids := array[]::uuid[];

  select n.* into v_slot from app_private.slot_of(at, v_cohort.every, v_shard.shard) as n;
  if v_shard.open_slot is not null then
    -- It began in an earlier tick, and is brought to its end whatever is due by now.
    select d.slot, d.between as missed, d.between as counted, d.slot as taken,
           case when v_slot.slot > d.slot then at else v_slot.next_run_at end as then_at
    into v_turn
    from (select v_shard.open_slot as slot, coalesce(greatest(0, pg_catalog.ceil(
            (v_shard.open_slot - v_shard.last_slot)::numeric / v_slot.seconds)::bigint - 1), 0) as between
    ) as d;
  else
    select d.* into v_turn
    from app_private.turn_due(
      v_cohort, at, v_slot.slot, v_slot.next_run_at, v_slot.seconds, v_shard.last_slot) as d;
  end if;
  slot := v_turn.slot;
  missed := v_turn.missed;

  if slot is not null then
    tenant_ids := app_private.turn_tenants(v_cohort, v_shard.shard, v_shard.resume_after, max_rows + 1);
  end if;
  v_last := tenant_ids[max_rows];
  v_more := tenant_ids[max_rows + 1] is not null;
  overlapped := pg_catalog.cardinality(tenant_ids[1:max_rows]);
  tenant_ids := app_private.turns_fit(tenant_ids[1:max_rows], app_private.turn_overlaps(v_cohort));
  overlapped := overlapped - pg_catalog.cardinality(tenant_ids);
  update app.schedules as s
  set open_slot = case when v_more then shard_take.slot end,
      resume_after = case when v_more then v_last end,
      last_slot = case when v_more then s.last_slot else v_turn.taken end,
      next_run_at = case when v_more then s.next_run_at else v_turn.then_at end,
      missed_slots = s.missed_slots + case when v_more then 0 else v_turn.counted end
  where s.tier = v_shard.tier and s.shard = v_shard.shard;
  again := not v_more and v_turn.then_at <= at;
  return next;
end
$$;

comment on function app_private.shard_take is
  'Locks the shard that is due for the longest, not before since, decides by the policies of its cohort which turn it takes, '
  'and moves it on. Answers the turn and at most max_rows of its tenants, less those whose turns before have not ended: '
  'overlapped is how many. Where there are more, the turn stays open, and the next call goes on after the last one. due_at is '
  'what the next call may have as since: a turn that is still due stays at or goes behind it. again: the shard has another '
  'turn to take. No row: nothing is due that no other tick holds.';

grant execute on function app_private.shard_take to holdfast_system;
--! EndIncluded app_private/shard_take.sql
--! Included app_private/daily_on.sql
create or replace function app_private.daily_on(on_date date, time_zone text, daily_at time)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
  v_wall   constant timestamp := on_date + daily_at;
  v_utc    constant timestamptz := v_wall at time zone 'UTC';
  v_before constant interval :=  -- the offset from UTC well before that moment, wherever it is
    (v_utc - interval '15 hours') at time zone time_zone - (v_utc - interval '15 hours') at time zone 'UTC';
  v_after  constant interval :=
    (v_utc + interval '15 hours') at time zone time_zone - (v_utc + interval '15 hours') at time zone 'UTC';
  v_low    timestamptz := v_utc - greatest(v_before, v_after);
  v_high   timestamptz := v_utc - least(v_before, v_after);
  v_middle timestamptz;
begin
  -- Where clocks show the time twice, the first of the two counts.
  if v_low at time zone time_zone = v_wall then
    return v_low;
  elsif v_high at time zone time_zone = v_wall then
    return v_high;
  end if;

  -- Clocks jump over it: to the second at which they do.
  while v_high - v_low > interval '1 second' loop
    v_middle := pg_catalog.date_trunc('second', v_low + (v_high - v_low) / 2);
    if v_middle at time zone time_zone < v_wall then
      v_low := v_middle;
    else
      v_high := v_middle;
    end if;
  end loop;
  return case on_date
    when (v_high at time zone time_zone)::date then v_high
    when (v_low at time zone time_zone)::date then v_low end;
end
$$;

comment on function app_private.daily_on is
  'The moment of the daily turn on a date of a time zone. Where clocks jump over the time, it is the first valid moment '
  'after, or the last second before when that is on the next date already; where they show it twice, the first of the two. '
  'Null for a date that the zone has skipped.';

grant execute on function app_private.daily_on to holdfast_system;
--! EndIncluded app_private/daily_on.sql
--! Included app_private/daily_after.sql
create or replace function app_private.daily_after(at timestamptz, time_zone text, daily_at time)
returns timestamptz
language sql
stable
set search_path = ''
as $$
  select min(d.moment)
  from pg_catalog.generate_series(-1, 3) as n (days)
  cross join lateral (
    select app_private.daily_on(
      (at at time zone time_zone)::date + n.days, time_zone, daily_at) as moment) as d
  where d.moment > at
$$;

comment on function app_private.daily_after is
  'The first daily turn after a moment: one on each date of the time zone; see app_private.daily_on.';

grant execute on function app_private.daily_after to holdfast_system;
--! EndIncluded app_private/daily_after.sql
--! Included app_private/daily_before.sql
create or replace function app_private.daily_before(at timestamptz, time_zone text, daily_at time)
returns timestamptz
language sql
stable
set search_path = ''
as $$
  select max(d.moment)
  from pg_catalog.generate_series(-3, 1) as n (days)
  cross join lateral (
    select app_private.daily_on(
      (at at time zone time_zone)::date + n.days, time_zone, daily_at) as moment) as d
  where d.moment <= at
$$;

comment on function app_private.daily_before is
  'The daily turn that a moment belongs to: the last one that has begun; see app_private.daily_on.';

grant execute on function app_private.daily_before to holdfast_system;
--! EndIncluded app_private/daily_before.sql
--! Included app_private/daily_due.sql
create or replace function app_private.daily_due(
  cohort app.tiers, at timestamptz, time_zone text, daily_at time, last_slot bigint)
returns table (slot bigint, missed bigint, counted bigint, taken bigint, then_at timestamptz)
language plpgsql
stable
set search_path = ''
as $$
declare
  v_begun  constant timestamptz := app_private.daily_before(at, time_zone, daily_at);
  v_epoch  constant date := date '1970-01-01';
  v_newest constant bigint := (v_begun at time zone time_zone)::date - v_epoch;
  v_last   constant bigint := (pg_catalog.to_timestamp(last_slot) at time zone time_zone)::date - v_epoch;
  v_turn   record;
begin
  -- Dates are counted, as turns of a day are: the same policies, whatever clocks do.
  select d.* into v_turn
  from app_private.turn_due(cohort, pg_catalog.to_timestamp(v_newest * 86400) + (at - v_begun),
    v_newest * 86400, null, 86400, v_last * 86400) as d;

  taken := extract(epoch from coalesce(
    app_private.daily_on(v_epoch + (v_turn.taken / 86400)::integer, time_zone, daily_at), v_begun));
  -- A date that had its turn has no second one, though the hour or the time zone was changed in between.
  slot := case when v_turn.slot is not null and v_last is distinct from v_newest then taken end;
  missed := v_turn.missed;
  counted := v_turn.counted;
  then_at := case when v_turn.then_at is null
    then app_private.daily_after(at, time_zone, daily_at) else at end;
  return next;
end
$$;

comment on function app_private.daily_due is
  'What app_private.turn_due is for other turns, for those of each day: exactly one on each date of the time zone.';

grant execute on function app_private.daily_due to holdfast_system;
--! EndIncluded app_private/daily_due.sql
--! Included app_private/own_turns_take.sql
create or replace function app_private.own_turns_take(at timestamptz, max_rows integer)
returns table (tenant_id uuid, cohort text, slot bigint, missed bigint, overlapped boolean)
language plpgsql
set search_path = ''
set plan_cache_mode = force_custom_plan  -- as many rows as there are
as $$
declare
  v_ids uuid[];
begin
  v_ids := array(
    select s.tenant_id
    from app.tenant_schedules as s
    join app.tenants as t on t.tenant_id = s.tenant_id and t.status = 'ACTIVE' and t.jobs_paused_at is null
    join app.tiers as c on c.tier = t.tier and c.paused_at is null
    where s.next_run_at <= at
    order by s.next_run_at, s.tenant_id
    limit max_rows
    for no key update of s skip locked);

  return query
  with turns as materialized (
    select s.tenant_id, c.tier, app_private.turn_overlaps(c) as at_most,
           d.slot, d.missed, d.counted, d.taken, d.then_at
    from app.tenant_schedules as s
    join app.tenants as t on t.tenant_id = s.tenant_id
    join app.tiers as c on c.tier = t.tier
    cross join lateral (
      select e.*
      from app_private.slot_of(at, s.every, t.shard) as n
      cross join lateral app_private.turn_due(c, at, n.slot, n.next_run_at, n.seconds, s.last_slot) as e
      where s.every is not null
      union all
      select e.*
      from app_private.daily_due(c, at, t.time_zone, s.daily_at, s.last_slot) as e
      where s.daily_at is not null) as d
    where s.tenant_id = any (v_ids)
  ),
  moved as (
    update app.tenant_schedules as s
    set last_slot = t.taken, next_run_at = t.then_at, missed_slots = s.missed_slots + t.counted
    from turns as t
    where s.tenant_id = t.tenant_id
  )
  select t.tenant_id, t.tier, case when not f.overlapped then t.slot end, t.missed,
         f.overlapped and t.slot is not null
  from turns as t
  left join app_private.turns_open(v_ids) as o on o.tenant_id = t.tenant_id
  cross join lateral (select coalesce(o.turns > t.at_most, false)) as f (overlapped);
end
$$;

comment on function app_private.own_turns_take is
  'Locks up to max_rows tenants whose own turn is due, decides by the policies of their cohorts which one each takes, and '
  'moves their schedules on. Answers them all, with a slot where a run is to be made: none where the policy leaves the turn '
  'out, and none where it is overlapped by too many that have not ended.';

grant execute on function app_private.own_turns_take to holdfast_system;
--! EndIncluded app_private/own_turns_take.sql
--! Included app_private/own_turns_make.sql
create or replace function app_private.own_turns_make(at timestamptz, max_runs integer)
returns app_private.cohort_turns[]
language plpgsql
set search_path = ''
as $$
declare
  v_left       integer := max_runs;
  v_claimed    integer;
  v_tenant_ids uuid[];
  v_cohorts    text[];
  v_slots      bigint[];
  v_missed     bigint[];
  v_passed     app_private.cohort_turns[];
  v_made       app_private.cohort_turns[] := array[]::app_private.cohort_turns[];
begin
  -- A tenant with more turns to take comes again, when the run of the one before is there.
  while v_left > 0 loop
    with taken as materialized (select o.* from app_private.own_turns_take(at, v_left) as o)
    select count(*), array_agg(t.tenant_id) filter (where t.slot is not null),
           array_agg(t.cohort) filter (where t.slot is not null),
           array_agg(t.slot) filter (where t.slot is not null),
           array_agg(t.missed) filter (where t.slot is not null),
           array(select row(x.cohort, 0, 0, count(*), 0)::app_private.cohort_turns
                 from taken as x where x.overlapped group by x.cohort)
    into v_claimed, v_tenant_ids, v_cohorts, v_slots, v_missed, v_passed
    from taken as t;
    exit when v_claimed = 0;
    v_left := v_left - coalesce(pg_catalog.cardinality(v_tenant_ids), 0);
    v_made := v_made || v_passed || app_private.turns_make(v_tenant_ids, v_cohorts, v_slots, v_missed);
  end loop;
  return v_made;
end
$$;

comment on function app_private.own_turns_make is
  'Makes the runs of up to max_runs own turns of tenants that are due; answers those of each cohort as turns_make does, '
  'in parts, and as overlapped the turns that were passed over because those before had not ended.';

grant execute on function app_private.own_turns_make to holdfast_system;
--! EndIncluded app_private/own_turns_make.sql
--! Included app_private/turn_last.sql
create or replace function app_private.turn_last(tenant_id uuid) returns uuid
language sql
stable
set search_path = ''
as $$
  -- The first run of each turn; of the newest ones, for a turn may be counted as taken by the run of the one before it.
  select x.run_id
  from (
    select distinct on (j.slot) j.run_id
    from app.job_kinds as k
    cross join lateral (
      select s.slot, s.run_id
      from app.job_slots as s
      where s.tenant_id = turn_last.tenant_id and s.kind = k.kind
      order by s.slot desc
      limit 3) as j
    where k.slot_order is not null
    order by j.slot, j.run_id) as x
  order by x.run_id desc
  limit 1
$$;

comment on function app_private.turn_last is
  'The run with which the last turn of a tenant began: when that was, its id says. Null before the first.';

grant execute on function app_private.turn_last to holdfast_system;
--! EndIncluded app_private/turn_last.sql
--! Included app_private/newcomer.sql
-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.newcomer') is null then
    create type app_private.newcomer as (
      tenant_id uuid,
      every     interval,
      slot      bigint,
      next_at   timestamptz,
      next_slot bigint,
      at_once   boolean
    );
  end if;
end
$$;

comment on type app_private.newcomer is
  'Where a tenant stands in a cohort that it has come to: the period, the slot that has begun, the next turn that it could '
  'take, and whether it has one at once.';
--! EndIncluded app_private/newcomer.sql
--! Included app_private/newcomers.sql
create or replace function app_private.newcomers(tenant_ids uuid[], at timestamptz)
returns setof app_private.newcomer
language sql
volatile
set search_path = ''
as $$
  select t.tenant_id, c.every, n.slot, b.next_at, b.next_slot,
         -- A tick makes its turn where the shard is due, or at an open turn that has not come to it.
         not b.due and c.paused_at is null and t.status = 'ACTIVE' and t.jobs_paused_at is null
           and coalesce(l.run_id < app_private.uuid_v7_floor(at - c.every), true)
           and coalesce(app_private.turn_overlaps(c) >= coalesce(o.turns, 0), true)
  from unnest(tenant_ids) as w (tenant_id)
  join app.tenants as t on t.tenant_id = w.tenant_id
  join app.tiers as c on c.tier = t.tier
  join app.schedules as s on s.tier = t.tier and s.shard = t.shard
  cross join lateral app_private.slot_of(at, c.every, t.shard) as n
  cross join lateral (select app_private.turn_last(t.tenant_id) as run_id) as l
  cross join lateral (
    select s.next_run_at <= at and coalesce(t.tenant_id > s.resume_after, true) as due) as d
  cross join lateral (
    select d.due, case when d.due then at else x.next_at end as next_at,
           case when d.due then coalesce(s.open_slot, n.slot) else x.slot end as next_slot
    from (select y.next_at, z.slot
          from (select case when pg_catalog.isfinite(s.next_run_at)
                         then greatest(s.next_run_at, n.next_run_at) else n.next_run_at end as next_at) as y
          cross join lateral app_private.slot_of(y.next_at, c.every, t.shard) as z) as x) as b
  left join app_private.turns_open(tenant_ids) as o on o.tenant_id = t.tenant_id
  where not exists (select from app.tenant_schedules as o where o.tenant_id = t.tenant_id)
  order by t.tenant_id
$$;

comment on function app_private.newcomers is
  'Where tenants that have come to another cohort stand in it: the slot of the turn that has begun, when the next one that '
  'they could take begins, and whether they are due at once; see app_private.turns_settle.';

grant execute on function app_private.newcomers to holdfast_system;
--! EndIncluded app_private/newcomers.sql
--! Included app_private/turns_settle.sql
create or replace function app_private.turns_settle(tenant_ids uuid[]) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_now  constant timestamptz := pg_catalog.clock_timestamp();
  v_news app_private.newcomer[];
  v_made integer;
begin
  v_news := array(select n from app_private.newcomers(tenant_ids, v_now) as n);

  -- Later than a period of its new cohort already: its turn is now.
  select coalesce(sum(m.runs), 0) into v_made
  from (
    select app_private.turns_make(array_agg(n.tenant_id), array_agg(t.tier), array_agg(n.slot),
             array_agg(0::bigint)) as made
    from unnest(v_news) as n
    join app.tenants as t on t.tenant_id = n.tenant_id
    where n.at_once) as a
  cross join lateral unnest(a.made) as m;

  -- The next turn of the shard would come too soon after its last one: it counts as taken by that.
  insert into app.job_slots (tenant_id, kind, slot, run_id)
  select n.tenant_id, k.kind, n.next_slot, l.run_id
  from unnest(v_news) as n
  cross join lateral (select app_private.turn_last(n.tenant_id) as run_id) as l
  join app.job_kinds as k on k.slot_order is not null
  where l.run_id > app_private.uuid_v7_floor(n.next_at - n.every / 2)
  order by n.tenant_id, k.kind
  on conflict on constraint job_slots_pkey do nothing;
  return v_made;
end
$$;

comment on function app_private.turns_settle is
  'What becomes of the turns of tenants that have come to another cohort, in the transaction that moves them and under '
  'the locks of the shards that they leave and enter, so that neither is being ticked. A tenant whose last turn is a '
  'period of its new cohort or more ago has one now; then the next turn of the shard counts as taken when it would begin '
  'less than half a period after its last one. So, while ticks are punctual and whatever cohorts a tenant goes through: two '
  'of its turns never begin less than half a period of the cohort that makes the second apart, and never more than twice '
  'the longest period. Answers how many runs were made at once.';

grant execute on function app_private.turns_settle to holdfast_system;
--! EndIncluded app_private/turns_settle.sql
--! Included app_private/tier_of.sql
create or replace function app_private.tier_of(
  plan app.plans, last_active_at timestamptz, pinned_tier text, at timestamptz)
returns text
language sql
stable
parallel safe
return coalesce(pinned_tier,
  case when last_active_at < at - plan.dormant_after then 'DORMANT' else plan.tier end);

comment on function app_private.tier_of is
  'The cohort of a tenant at a moment: the one it is pinned to, else DORMANT when it was not active for as long as its plan '
  'says, else that of its plan.';

grant execute on function app_private.tier_of to holdfast_system;
--! EndIncluded app_private/tier_of.sql
--! Included app_private/schedules_mend.sql
create or replace function app_private.schedules_mend(at timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_mended integer;
begin
  -- No turn is ever set further ahead than one and a half periods: the clock has gone back since.
  with ahead as materialized (
    select s.tier, s.shard, c.every
    from app.schedules as s
    join app.tiers as c on c.tier = s.tier
    where s.next_run_at > at + 2 * c.every and pg_catalog.isfinite(s.next_run_at)
    order by s.tier, s.shard
    for no key update of s skip locked
  )
  update app.schedules as s
  set next_run_at = n.next_run_at, last_slot = least(s.last_slot, n.slot)
  from ahead as a
  cross join lateral app_private.slot_of(at, a.every, a.shard) as n
  where s.tier = a.tier and s.shard = a.shard;
  get diagnostics v_mended = row_count;

  with ahead as materialized (
    select s.tenant_id
    from app.tenant_schedules as s
    where s.next_run_at > at + 2 * coalesce(s.every, interval '3 days') and pg_catalog.isfinite(s.next_run_at)
    order by s.tenant_id
    for no key update of s skip locked
  )
  update app.tenant_schedules as s
  set next_run_at = at
  from ahead as a
  where s.tenant_id = a.tenant_id;
  return v_mended;
end
$$;

comment on function app_private.schedules_mend is
  'Brings turns back that a clock which had run ahead has set too far away. Slots that were taken meanwhile stay taken, so '
  'that none is made twice. Answers how many shards it mended.';

grant execute on function app_private.schedules_mend to holdfast_system;
--! EndIncluded app_private/schedules_mend.sql
--! Included app_private/shards_hold.sql
create or replace function app_private.shards_hold(tenant_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  perform
  from app.schedules as s
  where s.shard = (select t.shard from app.tenants as t where t.tenant_id = shards_hold.tenant_id)
  order by s.tier
  for no key update;
end
$$;

comment on function app_private.shards_hold is
  'Waits until no tick is at the shard of a tenant, in any cohort, and keeps ticks away from it until the end of the '
  'transaction. To be called before anything else is locked: ticks never wait for these rows, so nothing can deadlock.';

grant execute on function app_private.shards_hold to holdfast_system;
--! EndIncluded app_private/shards_hold.sql
--! Included app_private/shards_reset.sql
create or replace function app_private.shards_reset(tier text, every interval, at timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_reset integer;
begin
  with shards as materialized (
    select s.tier, s.shard from app.schedules as s
    where s.tier = shards_reset.tier order by s.shard for no key update
  )
  update app.schedules as s
  set next_run_at = n.next_run_at
  from shards as h
  join app.schedules as x on x.tier = h.tier and x.shard = h.shard
  cross join lateral app_private.slot_of(
    greatest(at, pg_catalog.to_timestamp(x.last_slot) + every / 2), every, x.shard) as n
  where s.tier = h.tier and s.shard = h.shard and s.next_run_at > at;
  get diagnostics v_reset = row_count;
  return v_reset;
end
$$;

comment on function app_private.shards_reset is
  'Sets when the shards of a cohort are due next, now that its period is another: at the first of the new boundaries that is half '
  'a period after the last turn. So all wait for at most twice the longer of the two periods, and do not all come at once. '
  'What is due already stays so. Waits for ticks that are at these shards. Answers how many were set.';

grant execute on function app_private.shards_reset to holdfast_system;
--! EndIncluded app_private/shards_reset.sql
--! Included app_private/own_turn_next.sql
create or replace function app_private.own_turn_next(
  tenant app.tenants, every interval, daily_at time, last_slot bigint, at timestamptz)
returns timestamptz
language plpgsql
stable
set search_path = ''
as $$
declare
  v_run  constant uuid := app_private.turn_last((tenant).tenant_id);
  v_last constant date := (pg_catalog.to_timestamp(last_slot) at time zone (tenant).time_zone)::date;
  v_slot record;
  v_next timestamptz;
begin
  if every is not null then
    select n.* into v_slot from app_private.slot_of(at, own_turn_next.every, (tenant).shard) as n;
    -- At once when the last turn is a period ago; but two turns are half a period apart at least.
    v_next := case when coalesce(v_run < app_private.uuid_v7_floor(at - every), true) then at
              else v_slot.next_run_at end;
    return case
      when v_next = at and v_slot.next_run_at - at >= every / 2 then at
      when v_next > at and v_run > app_private.uuid_v7_floor(v_next - every / 2) then v_next + every
      else v_slot.next_run_at end;
  end if;

  -- A date has one turn, whatever is set after it; and one at once, when there was none and it has begun.
  v_next := app_private.daily_before(at, (tenant).time_zone, daily_at);
  if (v_next at time zone (tenant).time_zone)::date > v_last then
    return at;
  end if;
  v_next := app_private.daily_after(at, (tenant).time_zone, daily_at);
  return case when (v_next at time zone (tenant).time_zone)::date > v_last is false
    then app_private.daily_after(v_next, (tenant).time_zone, daily_at) else v_next end;
end
$$;

comment on function app_private.own_turn_next is
  'When a tenant''s next own turn is due once its schedule, or its time zone, is set to this. last_slot is its last daily '
  'turn, or null where the turns before were others.';

grant execute on function app_private.own_turn_next to holdfast_system;
--! EndIncluded app_private/own_turn_next.sql
--! Included app_private/tenant_change.sql
create or replace function app_private.tenant_change(before app.tenants, after app.tenants, at timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
begin
  update app.tenants as t
  set plan = (after).plan,
      pinned_tier = (after).pinned_tier,
      tier = (after).tier,
      time_zone = (after).time_zone,
      version = t.version + 1,
      updated_at = at
  where t.tenant_id = (after).tenant_id;

  if (after).time_zone <> (before).time_zone then
    update app.tenant_schedules as s
    set next_run_at = app_private.own_turn_next(after, null, s.daily_at, s.last_slot, at)
    where s.tenant_id = (after).tenant_id and s.daily_at is not null;
  end if;
  if (after).tier <> (before).tier then
    perform app_private.turns_settle(array[(after).tenant_id]);
  end if;
end
$$;

comment on function app_private.tenant_change is
  'Writes what a person changes of a tenant, and settles its turns. Under app_private.shards_hold.';

grant execute on function app_private.tenant_change to holdfast_system;
--! EndIncluded app_private/tenant_change.sql
--! Included app_private/tier_check.sql
create or replace function app_private.tier_check(cohort app.tiers) returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  v_wrong constant text := case
    when cohort.tier is null then 'tier'
    when cohort.every not between interval '1 minute' and interval '31 days'
      or extract(month from cohort.every) <> 0 or extract(year from cohort.every) <> 0
      or extract(epoch from cohort.every) <> pg_catalog.floor(extract(epoch from cohort.every)) then 'every'
    when cohort.weight not between 0.1 and 100 then 'weight'
    when cohort.missed not in ('latest', 'all', 'skip') then 'missed'
    when cohort.missed_max not between 1 and 1000 then 'missed_max'
    when (cohort.missed = 'skip') <> (cohort.skip_after is not null) or cohort.skip_after <= interval '0'
      then 'skip_after'
    when cohort.overlap not in ('skip', 'queue', 'cancel')
      or cohort.missed = 'all' and cohort.overlap <> 'queue' then 'overlap' end;
begin
  if v_wrong is not null then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    = 'A tier is a row of app.tiers. '
                'Turns come every 1 minute to 31 days, in whole seconds; weight is 0.1 to 100; '
                'missed is latest, all (with overlap queue; missed_max is 1 to 1000) or skip (with skip_after); overlap is '
                'skip, queue or cancel.';
  end if;
end
$$;

comment on function app_private.tier_check is 'Raises OP102 unless a cohort may be like this.';

grant execute on function app_private.tier_check to holdfast_system;
--! EndIncluded app_private/tier_check.sql
--! Included app_private/schedule_check.sql
create or replace function app_private.schedule_check(every interval, daily_at time) returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  if every is not null and daily_at is not null
    or every not between interval '1 minute' and interval '31 days'
    or extract(month from every) <> 0 or extract(year from every) <> 0
    or extract(epoch from every) <> pg_catalog.floor(extract(epoch from every))
    or extract(epoch from daily_at) <> pg_catalog.floor(extract(epoch from daily_at))
    or daily_at >= '24:00'
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('every', every, 'daily_at', daily_at),
      hint    =
        'A turn comes every 1 minute to 31 days, or daily at a time from 00:00 to 23:59:59, in whole seconds.';
  end if;
end
$$;

comment on function app_private.schedule_check is 'Raises OP102 unless turns may come like this.';

grant execute on function app_private.schedule_check to holdfast_system;
--! EndIncluded app_private/schedule_check.sql
--! Included app_private/schedule_text.sql
create or replace function app_private.schedule_text(every interval, daily_at time) returns text
language sql
stable
return coalesce('every ' || every::text, 'daily at ' || daily_at::text, 'cohort');

comment on function app_private.schedule_text is 'How often a tenant has turns, in words; neither is as its cohort.';

grant execute on function app_private.schedule_text to holdfast_system;
--! EndIncluded app_private/schedule_text.sql
--! Included app/tiers_derive.sql
set local role holdfast_system;

create or replace function app.tiers_derive(max_rows integer default 5000) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_now   constant timestamptz := pg_catalog.clock_timestamp();
  v_ids   uuid[];
  v_moved uuid[];
begin
  perform app_private.schedules_mend(v_now);

  v_ids := array(
    select t.tenant_id
    from app.tenants as t
    join app.plans as p on p.plan = t.plan
    where t.tier <> app_private.tier_of(p, t.last_active_at, t.pinned_tier, v_now)
    limit max_rows);
  if pg_catalog.cardinality(v_ids) = 0 then
    return 0;
  end if;

  -- Both shards are held while a tenant goes from one to the other; where a tick is at one, the tenant stays for now.
  with shards as materialized (
    select s.tier, s.shard
    from app.schedules as s
    where exists (
      select from app.tenants as t
      join app.plans as p on p.plan = t.plan
      where t.tenant_id = any (v_ids) and t.shard = s.shard
        and s.tier in (t.tier, app_private.tier_of(p, t.last_active_at, t.pinned_tier, v_now)))
    order by s.tier, s.shard
    for no key update of s skip locked
  ),
  moved as (
    update app.tenants as t
    set tier = app_private.tier_of(p, t.last_active_at, t.pinned_tier, v_now)
    from app.plans as p
    where t.tenant_id = any (v_ids) and p.plan = t.plan
      and t.tier <> app_private.tier_of(p, t.last_active_at, t.pinned_tier, v_now)
      and exists (select from shards as s where s.tier = t.tier and s.shard = t.shard)
      and exists (
        select from shards as s
        where s.tier = app_private.tier_of(p, t.last_active_at, t.pinned_tier, v_now) and s.shard = t.shard)
    returning t.tenant_id
  )
  select array_agg(m.tenant_id) into v_moved from moved as m;
  if v_moved is null then
    return 0;
  end if;

  perform app_private.turns_settle(v_moved);
  return pg_catalog.cardinality(v_moved);
end
$$;

comment on function app.tiers_derive is
  'Moves up to max_rows tenants, among all tenants, to the cohort that follows from their plan, their last activity and '
  'their pin, and settles their turns, so that none is run twice for a slot or forgotten: see app_private.turns_settle. A '
  'tenant of a shard that is being ticked is left for the next call. Answers how many were moved; call it once a minute, '
  'and again while it answers max_rows.';

grant execute on function app.tiers_derive to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/tiers_derive.sql
--! Included app/analyses.sql
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
--! EndIncluded app/analyses.sql
--! Included app_private/findings_save.sql
create or replace function app_private.findings_save(
  tenant_id uuid, run_id uuid, detected app_private.detected[])
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_count integer;
begin
  -- What is there is locked in one order first: two runs of a tenant may order the same findings differently.
  perform from app.findings as f where f.tenant_id = findings_save.tenant_id order by f.id for no key update;

  insert into app.findings as f (tenant_id, run_id, fingerprint, detector, detector_version, scope, severity,
    currency, monthly_saving, saving_basis, confidence, rank, evidence, slots, headline, why,
    remediation_code)
  select findings_save.tenant_id, findings_save.run_id, d.fingerprint, d.detector, d.detector_version,
         d.scope, d.severity, d.currency, nullif(greatest(d.monthly_saving, 0), 0),
         case when d.monthly_saving > 0 then d.saving_basis end, d.confidence,
         row_number() over (order by d.monthly_saving desc nulls last, d.amount desc, d.fingerprint),
         jsonb_strip_nulls(d.evidence), d.slots, d.headline, d.why, d.remediation_code
  from unnest(detected) as d
  order by d.fingerprint
  on conflict on constraint findings_fingerprint_once do update
  set run_id = excluded.run_id,
      detector_version = excluded.detector_version,
      scope = excluded.scope,
      severity = excluded.severity,
      monthly_saving = excluded.monthly_saving,
      saving_basis = excluded.saving_basis,
      confidence = excluded.confidence,
      rank = excluded.rank,
      evidence = excluded.evidence,
      slots = excluded.slots,
      headline = excluded.headline,
      why = excluded.why,
      caveats = '{}',
      remediation_code = excluded.remediation_code,
      narrated_by = 'template',
      -- An attempt that is tried again sees the same finding, not another occurrence.
      occurrences = f.occurrences + (f.run_id <> excluded.run_id)::integer,
      last_seen_at = now(),
      state = case when f.state = 'resolved' then 'open' else f.state end,
      resolved_at = null;
  get diagnostics v_count = row_count;

  update app.findings as f
  set state = 'resolved', resolved_at = now()
  where f.tenant_id = findings_save.tenant_id
    and f.state in ('open', 'acknowledged')
    -- By what was found, not by the run: one that is tried again may have seen more the first time.
    and f.fingerprint <> all (array(select d.fingerprint from unnest(detected) as d));

  return v_count;
end
$$;

comment on function app_private.findings_save is
  'Keeps what the detectors of one run found: the same fingerprint is the same finding, and an open one that was not '
  'seen is resolved. What people dismissed stays dismissed. Ranks by saving, then by the money it is about.';
--! EndIncluded app_private/findings_save.sql
--! Included app_private/detectors_run.sql
create or replace function app_private.detectors_run(tenant_id uuid, run_id uuid, attempt integer)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_detected app_private.detected[];
begin
  -- One look at a time, each at what is published when its turn has come: an older look never ends after a newer one.
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(tenant_id::text, 1));
  perform app_private.job_running(tenant_id, run_id, attempt);

  select array_agg(row(d.*)::app_private.detected) into v_detected
  from (
    select * from app_private.detect_untagged_spend(detectors_run.tenant_id)
    union all
    select * from app_private.detect_cost_anomaly(detectors_run.tenant_id)
  ) as d;
  return app_private.findings_save(tenant_id, run_id, coalesce(v_detected, '{}'));
end
$$;

comment on function app_private.detectors_run is
  'Runs every detector over the published costs of a tenant and keeps what they found; answers how many findings. Those of '
  'a tenant go one after the other. Raises JB101, JB201 when the attempt no longer runs.';
--! EndIncluded app_private/detectors_run.sql
--! Included app_private/finding_mark.sql
create or replace function app_private.finding_mark(slots jsonb, remediation_code text) returns text
language sql
immutable
parallel safe
return pg_catalog.md5(slots::text || remediation_code);

comment on function app_private.finding_mark is
  'What words about a finding stand on: they hold while its mark is that of the candidate which the model was shown.';
--! EndIncluded app_private/finding_mark.sql
--! Included app_private/narration_check.sql
create or replace function app_private.narration_check(tenant_id uuid, result jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_items constant jsonb := coalesce(result -> 'items', '[]');
  v_bad   text := case
    when coalesce(result ->> 'narrated_by', '') not in ('model', 'template') then 'narrated_by'
    when result ->> 'narrated_by' = 'template' and v_items <> '[]' then 'items_of_the_template'
    when app_private.says_numbers(result ->> 'summary', '{}') then 'number_in_summary' end;
begin
  if v_bad is null then
    select x.fault into v_bad
    from jsonb_to_recordset(v_items) as i (
      finding_id uuid, mark text, rank integer, headline text, why text, caveats text[],
      remediation_code text)
    left join app.findings as f on f.tenant_id = narration_check.tenant_id and f.id = i.finding_id
    cross join lateral (select case
      when f.id is null then 'unknown_finding'
      when coalesce(i.rank, 0) < 1 then 'rank'
      when i.mark is null then 'mark'
      -- It has ended, or is not what the model was shown: analysis_apply drops these words, whatever they are.
      when f.state not in ('open', 'acknowledged')
        or i.mark <> app_private.finding_mark(f.slots, f.remediation_code) then null
      when coalesce(i.remediation_code, '') not in (f.remediation_code, 'no_action') then 'remediation'
      when coalesce(length(i.headline), 0) not between 1 and 200
        or coalesce(length(i.why), 0) not between 1 and 1000
        or cardinality(i.caveats) > 10
        or exists (select from unnest(i.caveats) as c (caveat)
                   where coalesce(length(c.caveat), 0) not between 1 and 500) then 'length'
      when app_private.says_numbers(
          concat_ws(' ', i.headline, i.why, array_to_string(i.caveats, ' ')), f.slots)
        then 'number_or_unknown_slot' end as fault) as x
    where x.fault is not null
    limit 1;
  end if;
  if v_bad is null and exists (
    select from jsonb_to_recordset(v_items) as i (finding_id uuid) group by i.finding_id having count(*) > 1)
  then
    v_bad := 'finding_twice';
  end if;

  if v_bad is not null then
    perform app_private.narration_refuse(v_bad);
  end if;
end
$$;

comment on function app_private.narration_check is
  'Raises NA102 unless the result words each finding of the tenant once at most, with a known remediation and no number of '
  'its own. The shell has checked the answer of the model; this is the constraint behind it.';
--! EndIncluded app_private/narration_check.sql
--! Included app_private/analysis_apply.sql
create or replace function app_private.analysis_apply(tenant_id uuid, run_id uuid, result jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_without text[] := (
    select array(select w.kind from jsonb_array_elements_text(r.input -> 'without') as w (kind))
    from app.job_runs as r
    -- Only the scheduler's word counts: in a run without a slot the input is that of a caller.
    where r.tenant_id = analysis_apply.tenant_id and r.id = analysis_apply.run_id and r.slot is not null);
begin
  -- In one order, as findings_save does: two runs of a tenant may end at once. What is checked then stays as it is.
  perform from app.findings as f where f.tenant_id = analysis_apply.tenant_id order by f.id for no key update;
  perform app_private.narration_check(tenant_id, result);

  -- What the model ordered comes first; what it left out keeps its order behind. Words count for what stands and is still
  -- what the model was shown: a detection may have been faster.
  with said as (
    select i.*
    from jsonb_to_recordset(coalesce(result -> 'items', '[]')) as i (
      finding_id uuid, mark text, rank integer, headline text, why text, caveats text[],
      remediation_code text)
  ), ordered as (
    select x.id, s.finding_id is not null as worded, s.headline, s.why, s.caveats, s.remediation_code,
           row_number() over (order by s.rank nulls last, x.rank, x.id) as rank
    from app.findings as x
    left join said as s
      on s.finding_id = x.id and s.mark = app_private.finding_mark(x.slots, x.remediation_code)
    where x.tenant_id = analysis_apply.tenant_id and x.state in ('open', 'acknowledged')
  )
  update app.findings as f
  set rank = o.rank,
      headline = case when o.worded then o.headline else f.headline end,
      why = case when o.worded then o.why else f.why end,
      caveats = case when o.worded then coalesce(o.caveats, '{}') else f.caveats end,
      remediation_code = case when o.worded then o.remediation_code else f.remediation_code end,
      narrated_by = case when o.worded then 'model' else f.narrated_by end
  from ordered as o
  where f.tenant_id = analysis_apply.tenant_id and f.id = o.id and (o.worded or f.rank <> o.rank);

  insert into app.analyses (tenant_id, id, narrated_by, fallback_reason, provider, model, prompt_hash,
    summary, finding_count, without)
  select analysis_apply.tenant_id, analysis_apply.run_id, result ->> 'narrated_by',
         result ->> 'fallback_reason', result ->> 'provider', result ->> 'model', result ->> 'prompt_hash',
         left(result ->> 'summary', 2000), count(*), coalesce(v_without, '{}')
  from app.findings as f
  where f.tenant_id = analysis_apply.tenant_id and f.state in ('open', 'acknowledged');

  perform app_private.event_add(tenant_id, 'analysis.completed', run_id, jsonb_strip_nulls(jsonb_build_object(
    'narrated_by', result ->> 'narrated_by', 'fallback_reason', result ->> 'fallback_reason',
    'without', nullif(v_without, '{}'))));
end
$$;

comment on function app_private.analysis_apply is
  'Keeps how an analysis was worded, and which kinds of its slot had failed before it. Words for a finding that has ended, or '
  'that a later detection saw otherwise, are dropped. A result without items leaves the words of SQL. Raises NA102.';
--! EndIncluded app_private/analysis_apply.sql
--! Included app_private/job_applies.sql
create or replace function app_private.job_applies(kind text) returns boolean
language sql
immutable
parallel safe
return kind = 'analysis';

comment on function app_private.job_applies is
  'Whether the result of a kind changes rows of its tenant when the run completes, as app_private.job_apply does: then it is '
  'completed alone, with a ticket.';

grant execute on function app_private.job_applies to holdfast_system;
--! EndIncluded app_private/job_applies.sql
--! Included app_private/job_apply.sql
create or replace function app_private.job_apply(tenant_id uuid, run_id uuid, kind text, result jsonb)
returns void
language plpgsql
set search_path = ''
as $$
begin
  -- What a kind of job writes as its last act, in the transaction that completes the run.
  if kind = 'analysis' then
    perform app_private.analysis_apply(tenant_id, run_id, result);
  end if;
end
$$;

comment on function app_private.job_apply is 'Applies the result of a run, by its kind; called by job_complete alone. A kind that is here is in '
  'app_private.job_applies too.';
--! EndIncluded app_private/job_apply.sql
--! Included app/analysis_request.sql
create or replace function app.analysis_request(
  tenant_id uuid, ticket text, provider text, model text, input_tokens_bound bigint, max_output_tokens bigint,
  idempotency_key text default null)
returns table (id uuid, run_id uuid, status text, created_at timestamptz, replayed boolean)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_run_id constant uuid := app_private.uuid_v7();
  v_known  uuid;
begin
  perform app.enter(tenant_id, ticket);

  v_known := app_private.job_run_key_take(tenant_id, idempotency_key, v_run_id,
    pg_catalog.jsonb_build_array('analysis')::text);
  if v_known is null then
    perform app_private.llm_headroom_check(tenant_id, provider, model, input_tokens_bound, max_output_tokens);

    perform app_private.run_add(tenant_id, v_run_id, 'analysis', '{}', pg_catalog.now(), 0::smallint);
    perform app_private.tenant_active(tenant_id);
  end if;

  return query
  select r.id, r.id, app_private.analysis_status(r.state), r.created_at, v_known is not null
  from app.job_runs as r
  where r.tenant_id = analysis_request.tenant_id and r.id = coalesce(v_known, v_run_id);
end
$$;

comment on function app.analysis_request is
  'Asks for an analysis now. Refuses at once, before a run exists, when the budget cannot hold the most that its call '
  'may cost. The same key answers the first analysis again, replayed. Raises LB101, LB102, LB103, LB105, '
  'JB103 when too many wait.';

grant execute on function app.analysis_request to holdfast_service, holdfast_worker;
--! EndIncluded app/analysis_request.sql
--! Included app/findings_detect.sql
create or replace function app.findings_detect(tenant_id uuid, ticket text, run_id uuid, attempt integer)
returns table (findings integer, open integer)
language plpgsql
security definer  -- the shell may not write findings
set search_path = ''
as $$
declare
  v_found integer;
begin
  perform app.enter(tenant_id, ticket);
  v_found := app_private.detectors_run(tenant_id, run_id, attempt);

  return query
  select v_found, count(*)::integer
  from app.findings as f
  where f.tenant_id = findings_detect.tenant_id and f.state in ('open', 'acknowledged');
end
$$;

comment on function app.findings_detect is
  'Runs every detector over the published costs of the tenant and keeps the findings, which remember this run. Answers how '
  'many were found, and how many stand: dismissed and snoozed ones do not. Raises JB101, JB201 when the attempt no longer '
  'runs.';

grant execute on function app.findings_detect to holdfast_service;
--! EndIncluded app/findings_detect.sql
--! Included app/analysis_candidates.sql
create or replace function app.analysis_candidates(tenant_id uuid, ticket text, run_id uuid, attempt integer)
returns table (
  candidate_id text, finding_id uuid, mark text, detector text, severity text, currency text, facts text,
  slots text[], remediation_codes text[])
language plpgsql
security definer  -- the shell may not write findings
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.job_running(tenant_id, run_id, attempt);

  -- A run of the scheduler comes after the detection of its slot. One that somebody asked for looks for itself.
  if exists (
    select from app.job_runs as r
    where r.tenant_id = analysis_candidates.tenant_id
      and r.id = analysis_candidates.run_id
      and r.slot is null)
  then
    perform app_private.detectors_run(tenant_id, run_id, attempt);
  end if;

  return query
  select 'c' || row_number() over (order by f.rank, f.id), f.id,
         app_private.finding_mark(f.slots, f.remediation_code), f.detector, f.severity, f.currency,
         (select string_agg(s.key || '=' || s.value, '; ' order by s.key) from jsonb_each_text(f.slots) as s),
         array(select s.key from jsonb_object_keys(f.slots) as s (key) order by s.key),
         case when f.remediation_code <> 'no_action' then array[f.remediation_code] end || 'no_action'::text
  from app.findings as f
  where f.tenant_id = analysis_candidates.tenant_id and f.state in ('open', 'acknowledged')
  order by f.rank, f.id
  limit 40;
end
$$;

comment on function app.analysis_candidates is
  'The forty findings that stand and matter most, as candidates for a model to order and word; mark goes back with the words. '
  'A run without a slot runs the detectors first, as app.findings_detect does. Raises JB101, JB201 when the attempt no '
  'longer runs.';

grant execute on function app.analysis_candidates to holdfast_service;
--! EndIncluded app/analysis_candidates.sql
--! Included app/analysis_get.sql
create or replace function app.analysis_get(tenant_id uuid, ticket text, analysis_id uuid)
returns table (
  id uuid, run_id uuid, status text, narrated_by text, fallback_reason text, provider text, model text,
  summary text, findings integer, llm_reserved_nanousd bigint, llm_settled_nanousd bigint,
  llm_reserved_usd numeric, llm_settled_usd numeric, error_code text,
  created_at timestamptz, started_at timestamptz, finished_at timestamptz, without text[])
language plpgsql
security definer  -- the service role may not read runs
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  return query
  select r.id, r.id, app_private.analysis_status(r.state), a.narrated_by, a.fallback_reason, a.provider,
         a.model, a.summary,
         a.finding_count, m.reserved, m.settled, app_private.usd(m.reserved), app_private.usd(m.settled),
         coalesce(r.error_code,
           case when a.fallback_reason in ('budget_exceeded', 'no_price') then a.fallback_reason end),
         r.created_at, r.started_at, r.finished_at, coalesce(a.without, '{}')
  from app.job_runs as r
  left join app.analyses as a on a.tenant_id = r.tenant_id and a.id = r.id
  cross join lateral (
    select coalesce(sum(x.estimated_cost_nanousd), 0)::bigint as reserved,
           coalesce(sum(x.cost_nanousd), 0)::bigint as settled
    from app.llm_reservations as x
    where x.tenant_id = r.tenant_id and x.run_id = r.id) as m
  where r.tenant_id = analysis_get.tenant_id and r.id = analysis_id and r.kind = 'analysis';

  if not found then
    raise exception using
      errcode = 'NA101',
      message = 'analysis_not_found',
      hint    = 'Use the id that the request for an analysis answered.';
  end if;
end
$$;

comment on function app.analysis_get is
  'An analysis: its state, how it was worded, and what its calls reserved and cost. error_code is budget_exceeded or '
  'no_price where it was worded by the template for that reason; without names the kinds of its slot that had failed for '
  'good before it. Raises NA101, alike for an absent and a foreign id.';

grant execute on function app.analysis_get to holdfast_service, holdfast_worker;
--! EndIncluded app/analysis_get.sql
--! Included ops/report.sql
set local role holdfast_system;

create or replace view ops.report as
select t.name as tenant, t.tier,
       coalesce(c.lines, 0) as rows, coalesce(c.flagged, 0) as flags, coalesce(f.findings, 0) as findings,
       case when s.currencies = 1 then s.saving end as saving, coalesce(s.currency, c.currency) as currency,
       coalesce(m.reserved, 0) as reserved, coalesce(m.settled, 0) as settled, b.left_usd as "left",
       case when l.live then 'running'
            when r.id is null then 'no_analysis'
            when r.state = 'DEAD_LETTER' then r.error_code
            when a.narrated_by = 'model' or a.fallback_reason = 'no_findings' then 'completed'
            else a.fallback_reason end
         || case when a.without <> '{}' and not l.live
              then ' without ' || array_to_string(a.without, ', ') else '' end as state
from app.tenants as t
join app.tiers as x on x.tier = t.tier
left join lateral (
  select sum(d.line_count) as lines, sum(d.flagged_count) as flagged,
         mode() within group (order by d.billing_currency) as currency
  from app.cost_periods as p
  join app.cost_daily as d
    on d.tenant_id = p.tenant_id and d.import_id = p.import_id
    and d.billing_period_start = p.billing_period_start
  where p.tenant_id = t.tenant_id) as c on true
left join lateral (
  select count(*) as findings from app.findings as f
  where f.tenant_id = t.tenant_id and f.state = 'open') as f on true
left join lateral (
  select count(*) as currencies, min(p.currency) as currency, min(p.saving) as saving
  from (select f.currency, sum(f.monthly_saving) as saving from app.findings as f
        where f.tenant_id = t.tenant_id and f.state = 'open' and f.monthly_saving is not null
        group by f.currency) as p) as s on true
left join lateral (
  select r.id, r.state, r.error_code from app.job_runs as r
  where r.tenant_id = t.tenant_id and r.kind = 'analysis' order by r.id desc limit 1) as r on true
left join lateral (
  select exists (select from app.job_runs as x
    where x.tenant_id = t.tenant_id and (x.slot is not null or x.kind = 'analysis')
      and x.state in ('PENDING', 'RUNNING', 'FAILED')) as live) as l on true
left join app.analyses as a on a.tenant_id = t.tenant_id and a.id = r.id
left join lateral (
  select trim_scale(sum(v.estimated_cost_nanousd) / 1000000000) as reserved,
         trim_scale(sum(v.cost_nanousd) / 1000000000) as settled
  from app.llm_reservations as v
  where v.tenant_id = t.tenant_id and v.run_id = r.id and v.status <> 'RELEASED') as m on true
left join lateral (
  select min(trim_scale((g.limit_nanousd
           - coalesce(p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd, 0))
           / 1000000000.0)) as left_usd
  from app.llm_budgets as g
  left join app.llm_budget_periods as p
    on p.tenant_id = g.tenant_id and p.budget_id = g.id and p.period_start <= now() and p.period_end > now()
  where g.tenant_id = t.tenant_id) as b on true
order by x.rank, t.name;

comment on view ops.report is
  'One line per tenant: cost lines and how many are flagged, open findings, what they could save a month, what the '
  'last analysis reserved and cost in US dollars, what is left of the budget, and how it ended: without names what '
  'had failed before it. running: an analysis is due or on its way. saving is null where unknown.';

grant select on ops.report to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/report.sql
--! Included ops/cost_source_set.sql
set local role holdfast_system;

create or replace function ops.cost_source_set(
  tenant text, source text, path text, reason text, dry_run boolean default false,
  expected_version bigint default null)
returns table (tenant_name text, source_name text, path_before text, path_after text, version bigint)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_wrong     constant text := case
    when coalesce(pg_catalog.length(source), 0) not between 1 and 100
      or source ~ '[[:cntrl:]]' then 'source'
    when coalesce(path, '') !~ '^/.' or pg_catalog.length(path) > 1000
      or path ~ '[[:cntrl:]]' then 'path' end;
  v_before    app.cost_sources;
  v_version   bigint;
begin
  perform app_private.reason_check(reason);
  if v_wrong is not null then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    =
        'A source has 1 to 100 printable characters; its path begins with / and every worker sees it.';
  end if;

  select s.* into v_before
  from app.cost_sources as s
  where s.tenant_id = v_tenant_id and s.source = cost_source_set.source
  for no key update;
  if expected_version is not null and v_before.version is distinct from expected_version then
    raise exception using
      errcode = 'VR201',
      message = 'optimistic_lock_failed',
      detail  = pg_catalog.jsonb_build_object('expected', expected_version, 'found', v_before.version),
      hint    = 'Someone changed it since you read it. Read ops.cost_sources again.';
  end if;

  v_version := coalesce(v_before.version, 0) + 1;
  if not dry_run then
    insert into app.cost_sources as s (tenant_id, source, path)
    values (v_tenant_id, cost_source_set.source, cost_source_set.path)
    on conflict on constraint cost_sources_pkey
      do update set path = excluded.path, version = s.version + 1
    returning s.version into v_version;

    insert into ops.audit_log (action, subject, reason, before, after)
    values ('cost_source_set', tenant, reason,
            case when v_before.source is not null then pg_catalog.to_jsonb(v_before) end,
            pg_catalog.jsonb_build_object('source', source, 'path', path, 'version', v_version));
  end if;

  return query select tenant, source, v_before.path, cost_source_set.path, v_version;
end
$$;

comment on function ops.cost_source_set is
  'Says where the workers find the cost file of a source of a tenant, among all tenants; audited. It is read at the tenant''s '
  'next turn, and again when it has changed. dry_run shows the change without making it. Raises TN101, VR201, OP101, OP102.';

grant execute on function ops.cost_source_set to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/cost_source_set.sql
--! Included ops/cost_source_drop.sql
set local role holdfast_system;

create or replace function ops.cost_source_drop(
  tenant text, source text, reason text, dry_run boolean default false)
returns table (tenant_name text, source_name text, path_before text, last_import_at timestamptz)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_before    app.cost_sources;
begin
  perform app_private.reason_check(reason);
  select s.* into v_before
  from app.cost_sources as s
  where s.tenant_id = v_tenant_id and s.source = cost_source_drop.source
  for update;
  if not found then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('source', source),
      hint    = 'The tenant has no such source; select * from ops.cost_sources lists them.';
  end if;

  if not dry_run then
    delete from app.cost_sources as s where s.tenant_id = v_tenant_id and s.source = cost_source_drop.source;

    insert into ops.audit_log (action, subject, reason, before)
    values ('cost_source_drop', tenant, reason, pg_catalog.to_jsonb(v_before));
  end if;

  return query select tenant, v_before.source, v_before.path, v_before.last_import_at;
end
$$;

comment on function ops.cost_source_drop is
  'Forgets a cost source of a tenant, among all tenants; audited. What was imported from it stays. dry_run shows what would '
  'go. Raises TN101, OP101, OP102.';

grant execute on function ops.cost_source_drop to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/cost_source_drop.sql
--! Included ops/cost_sources.sql
set local role holdfast_system;

create or replace view ops.cost_sources as
select t.name as tenant, s.source, s.path, s.version, s.last_import_at, i.status as last_import,
       i.line_count as rows, i.flagged_count as flagged, s.created_at, s.last_digest, s.last_import_id
from app.cost_sources as s
join app.tenants as t on t.tenant_id = s.tenant_id
left join app.cost_imports as i on i.tenant_id = s.tenant_id and i.id = s.last_import_id
order by t.name, s.source;

comment on view ops.cost_sources is
  'Where each tenant''s cost files are found by the workers, and what was last imported from there: rows is null before the '
  'first time.';

grant select on ops.cost_sources to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/cost_sources.sql
--! Included app/job_complete.sql
create or replace function app.job_complete(
  tenant_id uuid, ticket text, run_id uuid, attempt integer, result jsonb)
returns text
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_kind text;
begin
  perform app.enter(tenant_id, ticket);

  -- The fence comes first: an attempt that was overtaken applies nothing.
  update app.job_runs as r
  set state = 'COMPLETED',
      result = job_complete.result,
      error_code = null,
      error = null,
      lease_until = null,
      progress = 1,
      finished_at = pg_catalog.clock_timestamp()
  where r.tenant_id = job_complete.tenant_id
    and r.id = run_id
    and r.attempt = job_complete.attempt
    and r.state = 'RUNNING'
  returning r.kind into v_kind;
  if not found then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;

  perform app_private.job_apply(tenant_id, run_id, v_kind, result);
  return 'COMPLETED';
end
$$;

comment on function app.job_complete is
  'Ends an attempt with its result, which is applied in the same transaction: both or neither. Raises JB101, JB201.';

grant execute on function app.job_complete to holdfast_worker, holdfast_service;
--! EndIncluded app/job_complete.sql
--! Included app/job_complete_many.sql
set local role holdfast_system;

create or replace function app.job_complete_many(
  tenant_ids uuid[], run_ids uuid[], attempts integer[], results jsonb[])
returns table (run_id uuid)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
begin
  -- What somebody else holds is passed over, so that nobody waits here; its own call of job_complete waits for it.
  return query
  with ended as materialized (
    select r.tenant_id, r.id, e.result
    from unnest(tenant_ids, run_ids, attempts, results) as e (tenant_id, run_id, attempt, result)
    join app.job_runs as r
      on r.tenant_id = e.tenant_id and r.id = e.run_id and r.attempt = e.attempt and r.state = 'RUNNING'
    join app.tenants as t on t.tenant_id = r.tenant_id and t.status = 'ACTIVE'
    where not app_private.job_applies(r.kind)
    for no key update of r skip locked
  )
  update app.job_runs as r
  set state = 'COMPLETED',
      result = e.result,
      error_code = null,
      error = null,
      lease_until = null,
      progress = 1,
      finished_at = pg_catalog.clock_timestamp()
  from ended as e
  where r.tenant_id = e.tenant_id and r.id = e.id and r.state = 'RUNNING'
  returning r.id;
end
$$;

comment on function app.job_complete_many is
  'Ends attempts whose work is done and whose kind applies nothing, among all tenants, in one transaction. Answers those that '
  'it completed; for the others job_complete says what is the matter: another kind, another attempt, an end, a lock.';

grant execute on function app.job_complete_many to holdfast_worker;

set local role holdfast_owner;
--! EndIncluded app/job_complete_many.sql
--! Included app_private/partition_needed.sql
set local role holdfast_system;

create or replace function app_private.partition_needed(
  table_name text, month_start timestamptz, month_end timestamptz, keep interval) returns boolean
language plpgsql
volatile          -- asked again under the lock, it must see what was committed while that was waited for
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_from  constant uuid := app_private.uuid_v7_floor(month_start);
  v_below constant uuid := app_private.uuid_v7_floor(month_end);
begin
  if table_name = 'events' then
    return false;
  end if;
  -- A run has its events in its own month and in later ones.
  return exists (
      select from app.job_runs as r
      where (r.id >= v_from or table_name = 'job_run_events') and r.id < v_below
        and r.state in ('PENDING', 'RUNNING', 'FAILED'))
    or exists (
      select from app.job_runs as r
      where (r.id >= v_from or table_name = 'job_run_events') and r.id < v_below
        and r.state = 'DEAD_LETTER' and r.discarded_at is null
        and r.finished_at > pg_catalog.now() - 2 * keep);
end
$$;

comment on function app_private.partition_needed is
  'Whether a month that is old enough to go must stay, among all tenants: it holds a run, or events of one, that has not ended, or of a dead letter '
  'that waits for a person and ended less than 2 x keep ago. After that it has waited in vain, and goes with its month.';

grant execute on function app_private.partition_needed to holdfast_owner;

set local role holdfast_owner;
--! EndIncluded app_private/partition_needed.sql
--! Included app_private/partitions_drop.sql
create or replace function app_private.partitions_drop() returns integer
language plpgsql
security definer  -- the owner alone may drop partitions
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_month   record;
  v_left    regclass[] := array[]::regclass[];
  v_dropped integer := 0;
begin
  for v_month in
    select m.*, r.keep
    from app.retentions as r
    join app_private.partition_months as m on m.table_name = r.table_name
    where m.month_end <= pg_catalog.now() - r.keep
    order by m.table_name, m.month_start
  loop
    -- Asked before the lock, so that a month that is needed costs its table nothing; and under it, for it may be by then.
    continue when v_month.parent = any (v_left) or app_private.partition_needed(
      v_month.table_name, v_month.month_start, v_month.month_end, v_month.keep);
    begin
      execute pg_catalog.format('lock table %s in access exclusive mode', v_month.parent);
      -- A table that is locked stays so until the end: from then on, nothing is waited for.
      perform pg_catalog.set_config('lock_timeout', '100ms', true);
      -- While the lock was waited for, another caller may have dropped it.
      if exists (select from pg_catalog.pg_class as c where c.oid = v_month.part)
        and not app_private.partition_needed(
          v_month.table_name, v_month.month_start, v_month.month_end, v_month.keep)
      then
        execute pg_catalog.format('drop table %s', v_month.part);
        v_dropped := v_dropped + 1;
      end if;
    exception
      when lock_not_available or deadlock_detected then
        v_left := v_left || v_month.parent;
        raise warning 'app_private.partitions_drop: % stayed locked and is left for the next time',
          v_month.parent;
    end;
  end loop;
  return v_dropped;
end
$$;

comment on function app_private.partitions_drop is
  'Drops the months of the tables in app.retentions whose rows were all made longer than keep ago; answers how many. A month '
  'of runs stays whole while partition_needed says so. A table that stays locked for 3 s is left, with a warning.';
--! EndIncluded app_private/partitions_drop.sql
--! Included app_private/tokens_unlock_strays.sql
create or replace function app_private.tokens_unlock_strays() returns integer
language plpgsql
set search_path = ''
as $$
begin
  return app_private.tokens_unlock(array(
    select distinct j.locked_by
    from graphile_worker.jobs as j
    where j.locked_at < pg_catalog.clock_timestamp() - interval '1 minute'
      and not exists (select from app.job_workers as w where w.pool = j.locked_by)));
end
$$;

comment on function app_private.tokens_unlock_strays is
  'Gives back the tokens of pools that no worker has: of one that ended before its first beat, or after it was taken for lost. '
  'Their runs have other tokens by then; these would stand in the queue for hours. Answers how many.';
--! EndIncluded app_private/tokens_unlock_strays.sql
--! Included app/maintain.sql
create or replace function app.maintain(max_sweeps integer default 2)
returns table (partitions_made integer, partitions_dropped integer, rows_swept bigint)
language plpgsql
security definer  -- the owner alone may add and drop partitions
set search_path = ''
as $$
declare
  v_swept integer;
begin
  rows_swept := app.job_sweep();
  perform app_private.tokens_unlock_strays();
  for v_sweep in 1 .. max_sweeps loop
    v_swept := app.cost_import_sweep();
    exit when v_swept = 0;
    rows_swept := rows_swept + v_swept;
  end loop;

  -- Last, for it locks the tables that reservations and runs are written to. What was made stays locked until the end, so
  -- that months are dropped by the next call.
  partitions_made := app_private.partitions_make();
  partitions_dropped := case when partitions_made = 0 then app_private.partitions_drop() else 0 end;
  return next;
end
$$;

comment on function app.maintain is
  'What must be done now and then: partitions ahead of time, months that nobody needs, lines of imports that nobody sees, old '
  'slots and keys of runs, tokens that nobody holds any more. A table that stayed locked for 3 s is left for the next time, with a warning. Each call is one '
  'short transaction: call again while one of its answers is not 0. Safe at any time and by many.';

grant execute on function app.maintain to holdfast_worker, holdfast_ops;
--! EndIncluded app/maintain.sql
--! Included ops/retentions.sql
create or replace view ops.retentions as
select r.table_name, r.keep, count(m.part) as months_kept,
       min(m.month_start at time zone 'UTC')::date as oldest,
       (array_agg(m.part order by m.month_start))[1] as drops_next,
       date_trunc('second', min(m.month_end) + r.keep) as not_before
from app.retentions as r
left join app_private.partition_months as m on m.table_name = r.table_name
group by r.table_name, r.keep
order by r.table_name;

comment on view ops.retentions is
  'How long tables are kept: how many months there are of each, the oldest, and when app.maintain may drop it.';

grant select on ops.retentions to holdfast_ops;
--! EndIncluded ops/retentions.sql
--! Included ops/retention_set.sql
set local role holdfast_system;

create or replace function ops.retention_set(
  table_name text, keep interval, reason text, dry_run boolean default false)
returns table (before_keep interval, after_keep interval, would_drop bigint)
language plpgsql
security definer  -- rows of all tenants go by it
set search_path = ''
set row_security = on
as $$
declare
  v_before interval;
begin
  perform app_private.reason_check(reason);
  select r.keep into v_before
  from app.retentions as r
  where r.table_name = retention_set.table_name
  for no key update;
  if not found or not coalesce(keep >= interval '31 days', false) then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('table_name', table_name, 'keep', keep),
      hint    = 'ops.retentions lists the tables of which rows may go; each is kept for 31 days at least.';
  end if;

  if not dry_run then
    update app.retentions as r set keep = retention_set.keep where r.table_name = retention_set.table_name;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('retention_set', table_name, reason, pg_catalog.jsonb_build_object('keep', v_before),
            pg_catalog.jsonb_build_object('keep', keep));
  end if;

  return query
  select v_before, keep, count(*)
  from app_private.partition_months as m
  where m.table_name = retention_set.table_name and m.month_end <= pg_catalog.now() - keep;
end
$$;

comment on function ops.retention_set is
  'Sets how long the rows of a table are kept, those of all tenants; audited. Answers how many months app.maintain would drop '
  'now. dry_run shows that without the change. Raises OP101, OP102.';

grant execute on function ops.retention_set to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/retention_set.sql
--! Included app_private/run_find.sql
create or replace function app_private.run_find(run_id uuid) returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  v_tenant_id uuid;
begin
  select r.tenant_id into v_tenant_id from app.job_runs as r where r.id = run_find.run_id;
  if not found then
    perform app_private.job_run_missing();
  end if;
  return v_tenant_id;
end
$$;

comment on function app_private.run_find is
  'Whose run that is, for functions of ops, which see them all; its id says in which month to look. Raises JB101.';

grant execute on function app_private.run_find to holdfast_system;
--! EndIncluded app_private/run_find.sql
--! Included app_private/run_filter.sql
-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.run_filter') is null then
    create type app_private.run_filter as (
      run_id     uuid,
      tenant_id  uuid,
      kind       text,
      error_code text,
      since      timestamptz,
      until      timestamptz,
      max_runs   integer
    );
  end if;
end
$$;

comment on type app_private.run_filter is
  'Which dead letters a person means: all that is not null must hold, until excluded, at most max_runs of them.';
--! EndIncluded app_private/run_filter.sql
--! Included app_private/run_filter_of.sql
create or replace function app_private.run_filter_of(filter jsonb) returns app_private.run_filter
language plpgsql
stable
set search_path = ''
as $$
declare
  v_known  constant text[] := array['run', 'tenant', 'kind', 'error_code', 'since', 'until', 'max_runs'];
  v_filter app_private.run_filter;
  v_faults text[];
begin
  v_faults := case when pg_catalog.jsonb_typeof(filter) = 'object'
    then array(
      select k.name from pg_catalog.jsonb_object_keys(filter) as k (name) where k.name <> all (v_known))
    else array['filter'] end;
  if v_faults = '{}' then
    begin
      v_filter := row((filter ->> 'run')::uuid, null, filter ->> 'kind', filter ->> 'error_code',
        (filter ->> 'since')::timestamptz, (filter ->> 'until')::timestamptz,
        coalesce((filter ->> 'max_runs')::integer, 1000));
    exception when data_exception then
      v_faults := array['run', 'since', 'until', 'max_runs'];
    end;
  end if;
  if v_faults <> '{}' or v_filter.max_runs not between 1 and 10000 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object(
        'argument', 'filter', 'keys', coalesce(nullif(v_faults, '{}'), '{max_runs}')),
      hint    = 'A filter is a JSON object with any of run, tenant (its name), kind, error_code, since, '
                'until and max_runs: 1 to 10000, and 1000 if it is left out.';
  end if;

  if filter ? 'tenant' then
    v_filter.tenant_id := app.tenant_find(filter ->> 'tenant');
  end if;
  return v_filter;
end
$$;

comment on function app_private.run_filter_of is
  'What a filter of ops.job_replay and ops.job_discard says. Raises OP102 for what it does not know, and names it; TN101.';

grant execute on function app_private.run_filter_of to holdfast_system;
--! EndIncluded app_private/run_filter_of.sql
--! Included app_private/runs_dead.sql
create or replace function app_private.runs_dead(filter jsonb) returns setof app.job_runs
language plpgsql
set search_path = ''
as $$
declare
  v_filter constant app_private.run_filter := app_private.run_filter_of(filter);
  v_run    app.job_runs;
begin
  if v_filter.run_id is not null then
    -- One that was put aside is named by its id.
    v_run := app_private.run_lock(app_private.run_find(v_filter.run_id), v_filter.run_id);
    if v_run.state <> 'DEAD_LETTER' then
      perform app_private.run_not_dead(v_run);
    end if;
  end if;

  return query
  select r.*
  from app.job_runs as r
  where r.state = 'DEAD_LETTER'
    and (r.discarded_at is null or r.id = v_filter.run_id)
    and (v_filter.run_id is null or r.id = v_filter.run_id)
    and (v_filter.tenant_id is null or r.tenant_id = v_filter.tenant_id)
    and (v_filter.kind is null or r.kind = v_filter.kind)
    and (v_filter.error_code is null or r.error_code = v_filter.error_code)
    and (v_filter.since is null or r.finished_at >= v_filter.since)
    and (v_filter.until is null or r.finished_at < v_filter.until)
  order by r.tenant_id, r.id
  limit v_filter.max_runs
  for no key update;
end
$$;

comment on function app_private.runs_dead is
  'The dead letters that a filter means, locked in the order of their keys; those that were put aside only by their id. Raises '
  'JB101 and JB205 for a named run that is none, OP102, TN101.';

grant execute on function app_private.runs_dead to holdfast_system;
--! EndIncluded app_private/runs_dead.sql
--! Included app_private/job_pause_set.sql
create or replace function app_private.job_pause_set(
  tenant text, kind text, cohort text, paused boolean, dry_run boolean)
returns table (what text, name text, before timestamptz, after timestamptz)
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
begin
  if pg_catalog.num_nonnulls(tenant, kind, cohort) <> 1 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('arguments', array['tenant', 'kind', 'cohort']),
      hint    = 'Name one of them: tenant => ''Acme'', kind => ''analysis'', or cohort => ''DORMANT''.';
  end if;

  what := case when tenant is not null then 'tenant' when kind is not null then 'kind' else 'cohort' end;
  name := coalesce(tenant, kind, cohort);
  if tenant is not null then
    select t.jobs_paused_at into before from app.tenants as t
    where t.tenant_id = app.tenant_find(tenant) for no key update;
  elsif kind is not null then
    select k.paused_at into before from app.job_kinds as k
    where k.kind = job_pause_set.kind for no key update;
  else
    select c.paused_at into before from app.tiers as c
    where c.tier = cohort for no key update;
  end if;
  if not found then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', what),
      hint    = 'There is none of that name: see app.job_kinds and app.tiers.';
  end if;

  -- Paused once, it keeps the moment at which that was.
  after := case when paused then coalesce(before, v_now) end;
  if not dry_run and after is distinct from before then
    update app.tenants as t set jobs_paused_at = after, version = t.version + 1, updated_at = v_now
    where what = 'tenant' and t.name = job_pause_set.tenant;
    update app.job_kinds as k set paused_at = after where what = 'kind' and k.kind = job_pause_set.kind;
    update app.tiers as c set paused_at = after where what = 'cohort' and c.tier = cohort;
  end if;
  return next;
end
$$;

comment on function app_private.job_pause_set is
  'Pauses the one tenant, kind or cohort that is named, or ends its pause; answers since when it was and is paused. Raises OP102, TN101.';

grant execute on function app_private.job_pause_set to holdfast_system;
--! EndIncluded app_private/job_pause_set.sql
--! Included app_private/job_kind_with.sql
create or replace function app_private.job_kind_with(kind text, changes jsonb) returns app.job_kinds
language plpgsql
stable
set search_path = ''
as $$
declare
  v_kind  app.job_kinds;
  v_fault text;
begin
  select k.* into v_kind from app.job_kinds as k where k.kind = job_kind_with.kind;
  if not found and changes -> 'description' = 'null' then
    raise exception using
      errcode = 'JB102',
      message = 'job_kind_unknown',
      detail  = pg_catalog.jsonb_build_object('kind', pg_catalog.left(kind, 63)),
      hint    =
        'select * from app.job_kinds lists the kinds that there are; with a description, a new one is made.';
  elsif not found then
    v_kind := pg_catalog.jsonb_populate_record(null::app.job_kinds, pg_catalog.jsonb_build_object(
      'kind', kind, 'timeout_seconds', 300, 'max_retries', 3, 'backoff_base_ms', 2000,
      'backoff_cap_ms', 3600000, 'non_retryable_codes', '{}'::text[], 'max_waiting', 100000,
      'rate_burst', 1, 'tenant_enqueues', false, 'input_schema', '{"type": "object"}'::jsonb));
  end if;

  v_kind := pg_catalog.jsonb_populate_record(v_kind, (
    select coalesce(pg_catalog.jsonb_object_agg(c.key, case
             when c.key in ('max_running', 'rate_per_minute') and c.value = '0' then 'null'
             else c.value end), '{}')
    from pg_catalog.jsonb_each(changes) as c
    where c.value <> 'null'));
  v_fault := app_private.job_kind_fault(v_kind);
  if v_fault is not null then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_fault),
      hint    =
        'The constraints of app.job_kinds say what is sane; a schema says what app_private.json_fault knows.';
  end if;
  return v_kind;
end
$$;

comment on function app_private.job_kind_with is
  'A kind as it would be with these settings: what is null stays, 0 takes max_running and rate_per_minute away; what is not there '
  'begins with the defaults, if it has a description. Raises JB102, OP102.';

grant execute on function app_private.job_kind_with to holdfast_system;
--! EndIncluded app_private/job_kind_with.sql
--! Included ops/job_enqueue.sql
set local role holdfast_system;

create or replace function ops.job_enqueue(
  tenant text, kind text, reason text, input jsonb default '{}', run_at timestamptz default now(),
  priority integer default 0, dry_run boolean default false)
returns table (run uuid, tenant_name text, run_kind text, due_at timestamptz, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_due_at    constant timestamptz := greatest(run_at, pg_catalog.now());
  v_run       app.job_runs;
begin
  perform app_private.reason_check(reason);
  perform app_private.job_request_check(kind, input, run_at, priority);
  perform app_private.job_kind_check(kind, input, by_tenant => false);

  if dry_run is not true then
    v_run := app_private.run_add(
      v_tenant_id, app_private.uuid_v7(), kind, input, v_due_at, priority::smallint);
    insert into ops.audit_log (action, subject, reason, after)
    values ('job_enqueue', tenant, job_enqueue.reason, pg_catalog.jsonb_build_object(
      'run', v_run.id, 'kind', kind, 'input', input, 'run_at', v_due_at, 'priority', priority));
  end if;

  return query
  select v_run.id, tenant, kind, v_due_at, case
    when dry_run is true then 'would be made'
    when v_run.token_at is null then 'made, and waits for its place'
    else 'made, and in the queue' end;
end
$$;

comment on function ops.job_enqueue is
  'Makes a run of a tenant, among all tenants, of any kind; audited. run_at is at most 366 days ahead; the lowest priority, -100 to '
  '100, goes first. dry_run checks it without making it. Raises TN101, JB102, JB103, JB104, OP101, OP102.';

grant execute on function ops.job_enqueue to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/job_enqueue.sql
--! Included ops/job_cancel.sql
set local role holdfast_system;

create or replace function ops.job_cancel(
  run uuid, actor text, reason text, force boolean default false, dry_run boolean default false)
returns table (run_id uuid, tenant text, kind text, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_before app.job_runs;
  v_after  app.job_runs;
begin
  perform app_private.run_actor_check(actor, reason);

  v_before := app_private.run_lock(app_private.run_find(run), run);
  if dry_run is not true or v_before.finished_at is not null then
    v_after := app_private.run_cancel(v_before, actor, reason, coalesce(force, false));
  end if;
  if dry_run is not true and v_after is distinct from v_before then
    insert into ops.audit_log (action, subject, reason, before, after)
    select 'job_cancel', t.name, job_cancel.reason, pg_catalog.to_jsonb(v_before),
           pg_catalog.jsonb_build_object('state', v_after.state, 'force', force, 'actor', actor)
    from app.tenants as t where t.tenant_id = v_before.tenant_id;
  end if;

  return query
  select v_before.id, t.name, v_before.kind, case
    when v_before.finished_at is not null then 'was cancelled already'
    when v_before.state <> 'RUNNING' or force is true
      then case when dry_run is true then 'would end at once' else 'has ended' end
    when dry_run is true then 'its worker would be told, and it would end within 20 s'
    else 'its worker is told, and it ends within 20 s' end
  from app.tenants as t where t.tenant_id = v_before.tenant_id;
end
$$;

comment on function ops.job_cancel is
  'Ends a run among all tenants: at once while it waits, within 20 s while it runs, or at once with force, which drops what it '
  'has done; audited. dry_run shows it without doing it. Raises JB101, JB206 when it has ended otherwise, OP101, OP102.';

grant execute on function ops.job_cancel to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/job_cancel.sql
--! Included ops/job_replay.sql
set local role holdfast_system;

create or replace function ops.job_replay(
  filter jsonb, actor text, reason text, rate numeric default 10, dry_run boolean default true,
  force boolean default false)
returns table (run uuid, tenant text, kind text, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_now  constant timestamptz := pg_catalog.clock_timestamp();
  v_dead app.job_runs[];
  v_go   app.job_runs[];
begin
  perform app_private.run_actor_check(actor, reason);
  if coalesce(rate, 0) not between 0.001 and 10000 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', 'rate'),
      hint    = 'rate is how many runs are due again each second, 0.001 to 10000.';
  end if;

  v_dead := array(select d from app_private.runs_dead(filter) as d);
  -- Tenants take turns.
  v_go := array(
    select d from unnest(v_dead) as d
    where force or not app_private.run_superseded(d)
    order by row_number() over (partition by d.tenant_id order by d.id), d.tenant_id);

  if not coalesce(dry_run, true) then
    perform app_private.run_replay(g.run, actor, reason, v_now + (g.n - 1) / rate * interval '1 second')
    from (select u.n, v_go[u.n] as run from generate_subscripts(v_go, 1) as u (n)) as g;
    perform app_private.runs_admit(array_agg(p.tenant_id), array_agg(p.kind))
    from (select distinct g.tenant_id, g.kind from unnest(v_go) as g) as p having count(*) > 0;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('job_replay', job_replay.actor, job_replay.reason, filter, pg_catalog.jsonb_build_object(
      'replayed', pg_catalog.cardinality(v_go),
      'skipped', pg_catalog.cardinality(v_dead) - pg_catalog.cardinality(v_go),
      'rate', rate, 'force', force, 'runs', array(select g.id from unnest(v_go) as g)));
  end if;

  return query
  select d.id, t.name, d.kind, case
    when g.n is null then 'skipped: a newer turn of it has completed since'
    else pg_catalog.format(case when coalesce(dry_run, true) then 'would be due again in %s s'
      else 'due again in %s s' end, pg_catalog.round((g.n - 1) / rate, 1)) end
  from unnest(v_dead) as d
  join app.tenants as t on t.tenant_id = d.tenant_id
  left join generate_subscripts(v_go, 1) as g (n) on (v_go[g.n]).id = d.id
  order by g.n nulls last, d.tenant_id, d.id;
end
$$;

comment on function ops.job_replay is
  'Makes dead letters pending again, as the same runs with all their retries, so many each second, tenants in turn, among all '
  'tenants; audited. filter is a JSON object with any of run, tenant, kind, error_code, since, until, max_runs (1000); one that a '
  'newer turn has made needless is skipped, unless forced. Only shows it unless dry_run => false. Raises JB101, JB205, TN101, OP101, OP102.';

grant execute on function ops.job_replay to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/job_replay.sql
--! Included ops/job_discard.sql
set local role holdfast_system;

create or replace function ops.job_discard(
  filter jsonb, actor text, reason text, dry_run boolean default true)
returns table (run uuid, tenant text, kind text, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_dead app.job_runs[];
begin
  perform app_private.run_actor_check(actor, reason);

  v_dead := array(select d from app_private.runs_dead(filter) as d);
  if not coalesce(dry_run, true) then
    perform app_private.run_discard(d, job_discard.actor, job_discard.reason) from unnest(v_dead) as d;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('job_discard', job_discard.actor, job_discard.reason, filter, pg_catalog.jsonb_build_object(
      'discarded', pg_catalog.cardinality(v_dead), 'runs', array(select d.id from unnest(v_dead) as d)));
  end if;

  return query
  select d.id, t.name, d.kind, case
    when d.discarded_at is not null then 'was put aside already'
    when coalesce(dry_run, true) then 'would be put aside'
    else 'put aside' end
  from unnest(v_dead) as d
  join app.tenants as t on t.tenant_id = d.tenant_id
  order by d.tenant_id, d.id;
end
$$;

comment on function ops.job_discard is
  'Puts dead letters aside, among all tenants; audited. filter is that of ops.job_replay. They are kept like every run, and '
  'can be replayed by their id. Only shows it unless dry_run => false. Raises JB101, JB205, TN101, OP101, OP102.';

grant execute on function ops.job_discard to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/job_discard.sql
--! Included ops/job_show.sql
set local role holdfast_system;

create or replace function ops.job_show(run uuid) returns table (at timestamptz, what text, detail text)
language plpgsql
stable
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_now       constant timestamptz := pg_catalog.clock_timestamp();
  v_tenant_id constant uuid := app_private.run_find(run);
begin
  return query
  with r as materialized (
    select x.*, t.name as tenant from app.job_runs as x
    join app.tenants as t on t.tenant_id = x.tenant_id
    where x.tenant_id = v_tenant_id and x.id = run
  ),
  story as (
    select 1 as place, r.created_at as at, 'made' as what, concat_ws(', ', r.kind || ' of ' || r.tenant,
             'turn ' || to_timestamp(r.slot), 'input ' || left(nullif(r.input, '{}')::text, 200)) as detail
    from r
    union all
    select 2, e.created_at, coalesce(e.from_state || ' to ', '') || e.to_state,
           concat_ws(', ', 'attempt ' || nullif(e.attempt, 0), 'by ' || e.actor, e.reason)
    from app.job_run_events as e where e.tenant_id = v_tenant_id and e.run_id = run
    union all
    select 3, e.created_at, replace(substr(e.type, 5), '_', ' '),
           concat_ws(', ', 'by ' || (e.data ->> 'actor'), e.data ->> 'reason')
    from app.events as e
    where e.tenant_id = v_tenant_id and e.id >= run and e.subject_id = run
      and e.type in ('run.cancel_requested', 'run.discarded')  -- what changes no state
    union all
    select 4, max(e.created_at), 'last error', concat_ws(': ', r.error_code, r.error)
    from r
    join app.job_run_events as e on e.tenant_id = v_tenant_id and e.run_id = run and e.from_state = 'RUNNING'
    where r.error_code is not null
    group by r.error_code, r.error
    union all
    select 5, r.token_at, 'token', 'for ' || date_trunc('second', r.available_at) || ', rank ' || r.token_rank
    from r where r.token_at is not null and r.state in ('PENDING', 'FAILED')
    union all
    select 6, v_now, 'progress', concat_ws(', ', round(r.progress::numeric * 100) || ' %', r.progress_text)
    from r where r.state = 'RUNNING' and (r.progress is not null or r.progress_text is not null)
    union all
    select 7, v_now, 'lease', 'of ' || r.worker || ', ends in ' || app_private.ago(r.lease_until - v_now)
    from r where r.state = 'RUNNING'
    union all
    select 8, v_now, 'waits',
           app_private.wait_why(w.cause, w.kind, w.tier, w.used, w.size, w.error_code, w.available_at)
    from app_private.run_waits as w where w.tenant_id = v_tenant_id and w.id = run
    union all
    select 9, v_now, 'waits', 'for a person: ops.job_replay or ops.job_discard'
    from r where r.state = 'DEAD_LETTER' and r.discarded_at is null
  )
  select s.at, s.what, s.detail from story as s order by s.at, s.place;
end
$$;

comment on function ops.job_show is
  'The story of a run of any of all tenants: how it was made, each change of state, what people did, its last error, and what it '
  'has and waits for now. Raises JB101.';

grant execute on function ops.job_show to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/job_show.sql
--! Included ops/job_pause.sql
set local role holdfast_system;

create or replace function ops.job_pause(
  reason text, tenant text default null, kind text default null, cohort text default null,
  dry_run boolean default false)
returns table (what text, name text, since timestamptz, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_pause record;
begin
  perform app_private.reason_check(reason);
  select p.* into v_pause
  from app_private.job_pause_set(
    tenant, kind, cohort, paused => true, dry_run => coalesce(dry_run, false)) as p;

  if dry_run is not true and v_pause.before is null then
    insert into ops.audit_log (action, subject, reason, after)
    values ('job_pause', v_pause.name, job_pause.reason,
            pg_catalog.jsonb_build_object('what', v_pause.what, 'paused_at', v_pause.after));
  end if;

  return query select v_pause.what, v_pause.name, v_pause.after, case
    when v_pause.before is not null then 'was paused already'
    when dry_run is true then 'would be paused'
    else 'paused: what runs goes on, nothing else starts' end;
end
$$;

comment on function ops.job_pause is
  'Pauses a tenant, a kind or a cohort, among all tenants, at once: what runs goes on, what waits stays waiting; audited. dry_run '
  'shows it without doing it. Raises TN101, OP101, OP102.';

grant execute on function ops.job_pause to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/job_pause.sql
--! Included ops/job_resume.sql
set local role holdfast_system;

create or replace function ops.job_resume(
  reason text, tenant text default null, kind text default null, cohort text default null,
  dry_run boolean default false)
returns table (what text, name text, since timestamptz, verdict text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_pause    record;
  v_admitted integer;
begin
  perform app_private.reason_check(reason);
  select p.* into v_pause
  from app_private.job_pause_set(
    tenant, kind, cohort, paused => false, dry_run => coalesce(dry_run, false)) as p;

  if dry_run is not true and v_pause.before is not null then
    -- A tenant's own come first; what is beyond the 10,000 is admitted within seconds.
    v_admitted := (
      select a.admitted
      from app.job_admit(
        after_tenant_id => case when tenant is not null then app.tenant_find(tenant) end,
        after_kind => case when tenant is not null then '' end) as a);
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('job_resume', v_pause.name, job_resume.reason,
            pg_catalog.jsonb_build_object('what', v_pause.what, 'paused_at', v_pause.before),
            pg_catalog.jsonb_build_object('admitted', v_admitted));
  end if;

  return query select v_pause.what, v_pause.name, v_pause.before, case
    when v_pause.before is null then 'was not paused'
    when dry_run is true then 'would go on'
    else pg_catalog.format('goes on: %s waiting runs are in the queue', v_admitted) end;
end
$$;

comment on function ops.job_resume is
  'Ends the pause of a tenant, a kind or a cohort, among all tenants, and admits what waits at once; audited. since is when the pause '
  'began. dry_run shows it without doing it. Raises TN101, OP101, OP102.';

grant execute on function ops.job_resume to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/job_resume.sql
--! Included ops/job_kind_set.sql
set local role holdfast_system;

create or replace function ops.job_kind_set(
  kind text, reason text, timeout_seconds integer default null, max_retries integer default null,
  backoff_base_ms integer default null, backoff_cap_ms integer default null,
  non_retryable_codes text[] default null, description text default null, max_running integer default null,
  max_waiting integer default null,
  rate_per_minute integer default null, rate_burst integer default null, tenant_enqueues boolean default null,
  input_schema jsonb default null, dry_run boolean default false)
returns table (setting text, before text, after text)
language plpgsql
security definer  -- kinds are for all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_before jsonb;
  v_after  app.job_kinds;
begin
  perform app_private.reason_check(reason);

  select pg_catalog.to_jsonb(k) into v_before
  from app.job_kinds as k where k.kind = job_kind_set.kind for no key update;
  v_after := app_private.job_kind_with(kind, pg_catalog.jsonb_build_object(
    'timeout_seconds', timeout_seconds, 'max_retries', max_retries, 'backoff_base_ms', backoff_base_ms,
    'backoff_cap_ms', backoff_cap_ms, 'non_retryable_codes', non_retryable_codes, 'description', description,
    'max_running', max_running, 'max_waiting', max_waiting, 'rate_per_minute', rate_per_minute,
    'rate_burst', rate_burst, 'tenant_enqueues', tenant_enqueues, 'input_schema', input_schema));

  if dry_run is not true and v_before is distinct from pg_catalog.to_jsonb(v_after) then
    insert into app.job_kinds as k select v_after.*
    on conflict on constraint job_kinds_pkey do update
    set (timeout_seconds, max_retries, backoff_base_ms, backoff_cap_ms, non_retryable_codes, description,
         max_running, max_waiting, rate_per_minute, rate_burst, tenant_enqueues, input_schema)
      = (v_after.timeout_seconds, v_after.max_retries, v_after.backoff_base_ms, v_after.backoff_cap_ms,
         v_after.non_retryable_codes, v_after.description, v_after.max_running, v_after.max_waiting,
         v_after.rate_per_minute, v_after.rate_burst, v_after.tenant_enqueues, v_after.input_schema);
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('job_kind_set', kind, job_kind_set.reason, v_before, pg_catalog.to_jsonb(v_after));
  end if;

  return query
  select a.key, b.value, a.value
  from pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(v_after)) as a
  left join pg_catalog.jsonb_each_text(v_before) as b on b.key = a.key
  where a.value is distinct from b.value
  order by a.key;
end
$$;

comment on function ops.job_kind_set is
  'Changes those settings of a kind that are given, or makes one that has a description, for all tenants; audited; answers what '
  'changes. 0 takes max_running or rate_per_minute away. dry_run shows it without doing it. Raises JB102, OP101, OP102.';

grant execute on function ops.job_kind_set to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/job_kind_set.sql
--! Included app_private/lint_isolation.sql
create or replace view app_private.lint_isolation as
with tenant_tables as (
  select c.oid, c.relispartition, c.relrowsecurity, c.relforcerowsecurity, a.attnum
  from pg_catalog.pg_class as c
  -- In whatever schema: what has the column is a tenant's.
  join pg_catalog.pg_namespace as n
    on n.oid = c.relnamespace and n.nspname !~ '^(pg_|information_schema$|graphile_)'
  join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
  where c.relkind in ('r', 'p')
)
select 'table_not_isolated' as rule, t.oid::regclass::text as object
from tenant_tables as t
where not (t.relrowsecurity and t.relforcerowsecurity)
  or not exists (
    select from pg_catalog.pg_policy as p where p.polrelid = t.oid and p.polname = 'tenant_isolation')
union all
-- Permissive policies are OR-ed, so one more of them opens the table: only what isolate makes may stand.
select 'policy_unexpected', p.polrelid::regclass::text || ' ' || p.polname
from pg_catalog.pg_policy as p
join tenant_tables as t on t.oid = p.polrelid
cross join lateral (
  select array(select r.rolname::text from pg_catalog.pg_roles as r
               where r.oid = any (p.polroles) order by r.rolname) as roles,
         replace(pg_catalog.pg_get_expr(p.polqual, p.polrelid), 'app_private.', '') as qual,
         replace(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), 'app_private.', '') as with_check,
         '(require() AND (tenant_id = ( SELECT current_tenant_id() AS current_tenant_id)))' as own) as x
where (p.polname::text, p.polcmd, p.polpermissive, x.roles, x.qual, x.with_check) is distinct from
    ('tenant_isolation', '*', true, array['holdfast_owner', 'holdfast_tenant'], x.own, x.own)
  and (p.polname::text, p.polcmd, p.polpermissive, x.roles, x.qual, x.with_check) is distinct from
    ('system_all', '*', true, array['holdfast_system'], 'true', null)
union all
select 'table_without_tenant', c.oid::regclass::text
from pg_catalog.pg_class as c
where c.relnamespace = 'app'::regnamespace
  and c.relkind in ('r', 'p')
  and c.oid not in (select t.oid from tenant_tables as t)
  and c.relname not in ('tiers', 'plans', 'schedules', 'retentions', 'llm_prices', 'job_kinds',
    'job_run_transitions', 'job_workers')
union all
-- A number that all tenants draw from tells each how busy the others are.
select 'sequence_shared', c.oid::regclass::text
from pg_catalog.pg_class as c
where c.relnamespace = 'app'::regnamespace and c.relkind = 'S'
union all
select 'unique_key_without_tenant', i.indexrelid::regclass::text
from pg_catalog.pg_index as i
join tenant_tables as t on t.oid = i.indrelid
-- The names of tenants are unique among all tenants: only functions of ops read or write them.
where i.indisunique and i.indkey[0] <> t.attnum and i.indexrelid <> 'app.tenants_name_once'::regclass
union all
select 'foreign_key_without_tenant', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
join tenant_tables as s on s.oid = k.conrelid
join tenant_tables as t on t.oid = k.confrelid
where k.contype = 'f'
  and not exists (
    select from generate_subscripts(k.conkey, 1) as n
    where k.conkey[n] = s.attnum and k.confkey[n] = t.attnum)
union all
select 'foreign_key_to_hot_counter', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
where k.contype = 'f' and k.confrelid = 'app.llm_budget_periods'::regclass
union all
-- Row security binds an owner only while it is forced, and a superuser never.
select 'owner_unexpected', c.oid::regclass::text || ' ' || pg_catalog.pg_get_userbyid(c.relowner)
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n
  on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
where c.relkind in ('r', 'p', 'v', 'm', 'S', 'c')
  and (pg_catalog.pg_get_userbyid(c.relowner) not in ('holdfast_owner', 'holdfast_system')
    or (c.relkind in ('r', 'p') and pg_catalog.pg_get_userbyid(c.relowner) <> 'holdfast_owner'))
union all
select 'owner_unexpected', p.oid::regprocedure::text || ' ' || pg_catalog.pg_get_userbyid(p.proowner)
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n
  on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
where pg_catalog.pg_get_userbyid(p.proowner) not in ('holdfast_owner', 'holdfast_system')
union all
-- The tenant role reads through fences: of a table itself, its conditions would be tried on the rows of all tenants.
select 'fence_open', c.oid::regclass::text
from pg_catalog.pg_class as c
where c.relnamespace = 'tenant'::regnamespace
  and not (c.relkind = 'v'
    and coalesce(c.reloptions = '{security_barrier=true}', false)
    and pg_catalog.pg_get_viewdef(c.oid) ~ '\sOFFSET 0;$')
  -- A view that reads as its reader comes to the fences, and no further.
  and not (c.relkind = 'v'
    and coalesce(c.reloptions @> '{security_invoker=true,security_barrier=true}', false));

comment on view app_private.lint_isolation is
  'Tables, keys, policies, owners and views that weaken tenant isolation.';
--! EndIncluded app_private/lint_isolation.sql
--! Included app_private/lint_functions.sql
create or replace view app_private.lint_functions as
with functions as (
  select p.oid, n.nspname, p.proname, p.prosecdef, p.provolatile, p.proparallel, p.proleakproof, p.prosrc,
         p.prosqlbody, p.proconfig, l.lanname, pg_catalog.pg_get_userbyid(p.proowner) as owner,
         coalesce(p.proargnames[1:2], '{}') as first_arguments,
         coalesce(pg_catalog.obj_description(p.oid, 'pg_proc'), '') as meaning
  from pg_catalog.pg_proc as p
  join pg_catalog.pg_namespace as n
    on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
  join pg_catalog.pg_language as l on l.oid = p.prolang
)
select 'function_without_search_path' as rule, f.oid::regprocedure::text as object
from functions as f
where f.prosqlbody is null and not coalesce('search_path=""' = any (f.proconfig), false)
union all
select 'immutable_reads_the_tenant', f.oid::regprocedure::text
from functions as f
where f.provolatile = 'i' and f.prosrc ~* 'current_setting|current_tenant_id|enter\('
  and f.proname <> 'require'
union all
select 'tenant_not_parallel_restricted', f.oid::regprocedure::text
from functions as f
where f.proname in ('current_tenant_id', 'require', 'seal') and f.proparallel <> 'r'
union all
-- A contract function takes the tenant and its ticket, and enters with them before anything else.
select 'contract_does_not_enter', f.oid::regprocedure::text
from functions as f
where f.nspname = 'app' and f.first_arguments = '{tenant_id,ticket}' and f.proname <> 'enter'
  and not (f.lanname = 'plpgsql' and f.prosecdef
    and f.prosrc ~ 'begin\s+perform app\.enter\(tenant_id, ticket\);')
union all
select 'definer_ignores_tenant', f.oid::regprocedure::text
from functions as f
where f.prosecdef and f.owner <> 'holdfast_system' and f.first_arguments <> '{tenant_id,ticket}'
  and f.proname not in ('current_tenant_id', 'ticket_check', 'ticket_binding', 'migration_applied',
    'job_kinds_missing', 'tokens_add', 'tokens_missing', 'tokens_unlock', 'token_places', 'tokens_count',
    'partitions_make', 'partitions_drop', 'maintain', 'become', 'ticket_key_set', 'ticket_key_retire')
union all
-- What sees all tenants says so, and turns row security on so that its own policy applies.
select 'system_function_unmarked', f.oid::regprocedure::text
from functions as f
where f.owner = 'holdfast_system' and f.prosecdef
  and not (f.meaning ~ 'all tenants' and coalesce('row_security=on' = any (f.proconfig), false))
union all
-- A new one is a new way past the policies: it is added here, and to the list of its test, with open eyes.
select 'system_function_unlisted', f.oid::regprocedure::text
from functions as f
where f.owner = 'holdfast_system'
  and f.nspname || '.' || f.proname not in (
    'app.cost_import_sweep', 'app.job_admit', 'app.job_claim', 'app.job_complete_many', 'app.job_metrics', 'app.job_reap',
    'app.job_sweep', 'app.llm_check', 'app.llm_expire', 'app.schedule_tick', 'app.tenant_find',
    'app.tiers_derive', 'app.tokens_repair', 'app.worker_beat', 'app.worker_seen', 'app.worker_stop',
    'app.workers_reap', 'app_private.partition_needed', 'app_private.tenant_check', 'ops.budget_set',
    'ops.cost_source_drop', 'ops.cost_source_set', 'ops.job_cancel', 'ops.job_discard', 'ops.job_enqueue',
    'ops.job_kind_set', 'ops.job_pause', 'ops.job_replay', 'ops.job_resume', 'ops.job_show',
    'ops.llm_price_set', 'ops.llm_write_off', 'ops.retention_set', 'ops.schedule_set', 'ops.tenant_add',
    'ops.tenant_set', 'ops.tier_set', 'ops.why_waiting')
union all
-- It would be run on hidden rows, before the policy.
select 'function_leakproof', f.oid::regprocedure::text
from functions as f
where f.proleakproof
union all
select 'function_for_everybody', f.oid::regprocedure::text
from functions as f
where pg_catalog.has_function_privilege('public', f.oid, 'execute')
union all
select 'function_overloaded', min(f.oid::regprocedure::text)
from functions as f
group by f.nspname, f.proname
having count(*) > 1;

comment on view app_private.lint_functions is
  'Functions that could be captured, that skip the ticket, or that see all tenants without saying so.';
--! EndIncluded app_private/lint_functions.sql
--! Included app/schedule_tick.sql
set local role holdfast_system;

create or replace function app.schedule_tick(max_runs integer default 50000)
returns table (cohort text, runs integer, shards integer, overlapped integer, duplicates integer)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
set enable_seqscan = off  -- plans are kept, and tables that were small when they were made grow
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_now        constant timestamptz := pg_catalog.clock_timestamp();
  v_left       integer := max_runs;
  v_since      timestamptz := '-infinity'::timestamptz;
  v_claimed    integer;
  v_turn       record;
  v_tenant_ids uuid[] := array[]::uuid[];
  v_cohorts    text[] := array[]::text[];
  v_slots      bigint[] := array[]::bigint[];
  v_missed     bigint[] := array[]::bigint[];
  v_shards     integer := 0;
  v_made       app_private.cohort_turns[] := array[]::app_private.cohort_turns[];
begin
  if coalesce(max_runs, 0) not between 1 and 1000000 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('max_runs', max_runs),
      hint    = 'One transaction makes 1 to 1000000 runs; 50000 keep it short.';
  end if;

  while v_left > 0 loop
    select t.* into v_turn from app_private.shard_take(v_now, v_left, v_since) as t;
    exit when not found;
    v_since := v_turn.due_at;
    v_claimed := pg_catalog.cardinality(v_turn.tenant_ids);
    v_left := v_left - v_claimed;
    v_shards := v_shards + 1;
    v_made := v_made || row(v_turn.cohort, 0, 1, v_turn.overlapped, 0)::app_private.cohort_turns;
    v_tenant_ids := v_tenant_ids || v_turn.tenant_ids;
    v_cohorts := v_cohorts || pg_catalog.array_fill(v_turn.cohort, array[v_claimed]);
    v_slots := v_slots || pg_catalog.array_fill(v_turn.slot, array[v_claimed]);
    v_missed := v_missed || pg_catalog.array_fill(v_turn.missed, array[v_claimed]);
    -- In parts, for growing arrays are copied; and where the shard comes again, its runs have to be there.
    if v_turn.again or v_shards % 100 = 0 then
      v_made := v_made || app_private.turns_make(v_tenant_ids, v_cohorts, v_slots, v_missed);
      v_tenant_ids := array[]::uuid[]; v_cohorts := array[]::text[];
      v_slots := array[]::bigint[]; v_missed := array[]::bigint[];
    end if;
  end loop;
  v_made := v_made || app_private.turns_make(v_tenant_ids, v_cohorts, v_slots, v_missed);

  v_made := v_made || app_private.own_turns_make(v_now, v_left);

  return query
  select c.tier, sum(m.runs)::integer, sum(m.shards)::integer, sum(m.overlapped)::integer,
         sum(m.duplicates)::integer
  from unnest(v_made) as m
  join app.tiers as c on c.tier = m.cohort
  group by c.tier
  having sum(m.runs + m.shards + m.overlapped + m.duplicates) > 0
  order by c.rank;
end
$$;

comment on function app.schedule_tick is
  'Makes the runs that are due, among all tenants, with their tokens, in one transaction: up to max_runs of them, and what '
  'is left is for the next call. Any number may call it at once: each takes the shards that no other holds, those that are '
  'due for the longest first, and a tenant has one run for a slot, whoever ticks. Suspended and paused tenants and paused '
  'cohorts have no turns. Answers for each cohort that had something: the runs made, the shards dealt with, the turns passed '
  'over because those before had not ended (overlapped), and those that their tenants had already (duplicates). There may '
  'be more to do while runs or shards are not 0. Raises OP102.';

grant execute on function app.schedule_tick to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/schedule_tick.sql
--! Included app_private/tenant_check.sql
set local role holdfast_system;

create or replace function app_private.tenant_check(
  name text, plan text, tier text, time_zone text, required_tags text[]) returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  v_wrong text := case
    when coalesce(pg_catalog.length(name), 0) not between 1 and 100 or name <> pg_catalog.btrim(name)
      or name ~ '[[:cntrl:]]' then 'name'
    when not exists (select from app.plans as p where p.plan = tenant_check.plan) then 'plan'
    when tier is not null and not exists (select from app.tiers as t where t.tier = tenant_check.tier)
      then 'tier'
    when not exists (select from pg_catalog.pg_timezone_names as z where z.name = time_zone)
      then 'time_zone'
    when pg_catalog.cardinality(required_tags) > 20
      or exists (select from unnest(required_tags) as r (tag)
                 where coalesce(r.tag, '') !~ '^[^[:cntrl:]]{1,128}$')
      or (select count(distinct r.tag) from unnest(required_tags) as r (tag))
        <> pg_catalog.cardinality(required_tags)
      then 'required_tags' end;
begin
  if v_wrong is not null then
    raise exception using
      errcode = 'TN103',
      message = 'tenant_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    = 'A name has 1 to 100 printable characters, a plan is a row of app.plans, a tier one of '
                'app.tiers, a time zone is one like Europe/Berlin, and at most 20 different tags of 1 to 128 characters are required.';
  end if;
end
$$;

comment on function app_private.tenant_check is
  'Raises TN103 unless a tenant may be like this; a tier that is null follows from the plan.';

set local role holdfast_owner;
--! EndIncluded app_private/tenant_check.sql
--! Included ops/tenant_add.sql
set local role holdfast_system;

create or replace function ops.tenant_add(
  name text, reason text, limit_usd numeric, tier text default null, time_zone text default 'UTC',
  required_tags text[] default null, sample boolean default false, plan text default 'growth')
returns table (tenant_id uuid, tenant text, tier_now text, monthly_limit_usd numeric)
language plpgsql
security definer  -- sees all tenants: it makes one
set search_path = ''
set row_security = on
as $$
declare
  v_tenant app.tenants;
begin
  perform app_private.reason_check(reason);
  perform app_private.tenant_check(name, plan, tier, time_zone, required_tags);

  insert into app.tenants as t (name, plan, pinned_tier, tier, time_zone, required_tags, sample)
  select tenant_add.name, p.plan, tenant_add.tier,
         app_private.tier_of(p, pg_catalog.now(), tenant_add.tier, pg_catalog.now()), tenant_add.time_zone,
         coalesce(tenant_add.required_tags, '{environment,owner,cost_center}'), tenant_add.sample
  from app.plans as p
  where p.plan = tenant_add.plan
  on conflict on constraint tenants_name_once do nothing
  returning * into v_tenant;
  if not found then
    raise exception using
      errcode = 'TN102',
      message = 'tenant_name_taken',
      detail  = pg_catalog.jsonb_build_object('name', name),
      hint    = 'select * from ops.tenants lists the names that are taken.';
  end if;

  insert into app.llm_budgets (tenant_id, limit_nanousd)
  values (v_tenant.tenant_id, app_private.nanousd(tenant_add.limit_usd));

  insert into ops.audit_log (action, subject, reason, after)
  values ('tenant_add', name, reason,
          pg_catalog.to_jsonb(v_tenant) || pg_catalog.jsonb_build_object('limit_usd', limit_usd));

  return query select v_tenant.tenant_id, v_tenant.name, v_tenant.tier, tenant_add.limit_usd;
end
$$;

comment on function ops.tenant_add is
  'Makes a tenant with a monthly budget in US dollars, among all tenants; audited. Its cohort follows from its plan, unless tier '
  'pins it to one; its first turn is the next of its cohort. Raises TN102, TN103, OP101, OP102.';

grant execute on function ops.tenant_add to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/tenant_add.sql
--! Included ops/tenant_set.sql
set local role holdfast_system;

create or replace function ops.tenant_set(
  tenant text, reason text, plan text default null, tier text default null, unpin boolean default false,
  time_zone text default null, dry_run boolean default false)
returns table (setting text, before text, after text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_now       constant timestamptz := pg_catalog.clock_timestamp();
  v_before    app.tenants;
  v_after     app.tenants;
begin
  perform app_private.reason_check(reason);
  if tier is not null and unpin then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('arguments', array['tier', 'unpin']),
      hint    =
        'A tier pins the tenant to a cohort, unpin lets it follow from the plan again: name one of them.';
  end if;

  perform app_private.shards_hold(v_tenant_id);
  select t.* into v_before from app.tenants as t where t.tenant_id = v_tenant_id for no key update;
  v_after := v_before;
  v_after.plan := coalesce(tenant_set.plan, v_before.plan);
  v_after.pinned_tier := case when not unpin then coalesce(tenant_set.tier, v_before.pinned_tier) end;
  v_after.time_zone := coalesce(tenant_set.time_zone, v_before.time_zone);
  perform app_private.tenant_check(
    v_after.name, v_after.plan, v_after.pinned_tier, v_after.time_zone, v_after.required_tags);
  v_after.tier := (select app_private.tier_of(p, v_before.last_active_at, v_after.pinned_tier, v_now)
                   from app.plans as p where p.plan = v_after.plan);

  if dry_run is not true and v_after is distinct from v_before then
    perform app_private.tenant_change(v_before, v_after, v_now);
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('tenant_set', tenant, reason, pg_catalog.to_jsonb(v_before), pg_catalog.to_jsonb(v_after));
  end if;

  return query
  select a.key, b.value, a.value
  from pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(v_after)) as a
  join pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(v_before)) as b on b.key = a.key
  where a.value is distinct from b.value
  order by a.key;
end
$$;

comment on function ops.tenant_set is
  'Changes what is given of a tenant, among all tenants: its plan, the cohort that it is pinned to (tier), its time zone; '
  'unpin lets the cohort follow from the plan again. Audited; answers what changes. Its turns go with it: none is taken twice '
  'or forgotten, and a daily one moves with the time zone. dry_run shows it without doing it. Raises TN101, TN103, OP101, '
  'OP102.';

grant execute on function ops.tenant_set to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/tenant_set.sql
--! Included ops/tier_set.sql
set local role holdfast_system;

create or replace function ops.tier_set(
  tier text, reason text, every interval default null, weight numeric default null, missed text default null,
  missed_max integer default null, skip_after interval default null, overlap text default null,
  dry_run boolean default false)
returns table (setting text, before text, after text)
language plpgsql
security definer  -- cohorts are of all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_before app.tiers;
  v_after  app.tiers;
begin
  perform app_private.reason_check(reason);
  select c.* into v_before from app.tiers as c where c.tier = tier_set.tier for no key update;
  v_after := v_before;
  v_after.every := coalesce(tier_set.every, v_before.every);
  v_after.weight := coalesce(tier_set.weight, v_before.weight);
  v_after.missed := coalesce(tier_set.missed, v_before.missed);
  v_after.missed_max := coalesce(tier_set.missed_max, v_before.missed_max);
  -- It goes with skip: who turns to another policy need not take it away.
  v_after.skip_after := coalesce(
    tier_set.skip_after, case when v_after.missed = 'skip' then v_before.skip_after end);
  v_after.overlap := coalesce(tier_set.overlap, v_before.overlap);
  perform app_private.tier_check(v_after);

  if dry_run is not true and v_after is distinct from v_before then
    update app.tiers as c
    set (every, weight, missed, missed_max, skip_after, overlap)
      = (v_after.every, v_after.weight, v_after.missed, v_after.missed_max, v_after.skip_after,
         v_after.overlap)
    where c.tier = v_after.tier;
    if v_after.every <> v_before.every then
      perform app_private.shards_reset(v_after.tier, v_after.every, pg_catalog.clock_timestamp());
    end if;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('tier_set', tier, reason, pg_catalog.to_jsonb(v_before), pg_catalog.to_jsonb(v_after));
  end if;

  return query
  select a.key, b.value, a.value
  from pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(v_after)) as a
  join pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(v_before)) as b on b.key = a.key
  where a.value is distinct from b.value
  order by a.key;
end
$$;

comment on function ops.tier_set is
  'Changes what is given of a cohort, for all tenants: how often its turns come, its weight, what becomes of turns that were '
  'missed or overlap; see app.tiers. Audited; answers what changes. A new period holds at once: every shard has its '
  'next turn at a boundary of it. dry_run shows it without doing it. Raises OP101, OP102.';

grant execute on function ops.tier_set to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/tier_set.sql
--! Included ops/schedule_set.sql
set local role holdfast_system;

create or replace function ops.schedule_set(
  tenant text, reason text, every interval default null, daily_at time default null,
  dry_run boolean default false)
returns table (tenant_name text, schedule_before text, schedule_after text, next_turn timestamptz)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_tenant    app.tenants;
  v_before    app.tenant_schedules;
  v_after     app.tenant_schedules;
begin
  perform app_private.reason_check(reason);
  perform app_private.schedule_check(every, daily_at);

  -- No tick makes the tenant's turn while it goes from one schedule to another.
  perform app_private.shards_hold(v_tenant_id);
  select t.* into v_tenant from app.tenants as t where t.tenant_id = v_tenant_id;
  select s.* into v_before
  from app.tenant_schedules as s where s.tenant_id = v_tenant_id for no key update;

  v_after := row(v_tenant_id, every, daily_at, null, null, coalesce(v_before.missed_slots, 0));
  if v_before.daily_at is not null and daily_at is not null then
    v_after.last_slot := v_before.last_slot;
  end if;
  if (v_before.every, v_before.daily_at) is not distinct from (every, daily_at) then
    v_after.next_run_at := v_before.next_run_at;
  elsif every is not null or daily_at is not null then
    v_after.next_run_at := app_private.own_turn_next(
      v_tenant, every, daily_at, v_after.last_slot, pg_catalog.clock_timestamp());
  end if;

  if dry_run is not true and (v_before.every, v_before.daily_at) is distinct from (every, daily_at) then
    delete from app.tenant_schedules as s where s.tenant_id = v_tenant_id;
    if v_after.next_run_at is not null then
      insert into app.tenant_schedules select v_after.*;
    else
      perform app_private.turns_settle(array[v_tenant_id]);
    end if;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('schedule_set', tenant, reason,
            case when v_before.tenant_id is not null then pg_catalog.to_jsonb(v_before) end,
            case when v_after.next_run_at is not null then pg_catalog.to_jsonb(v_after) end);
  end if;

  return query
  select tenant, app_private.schedule_text(v_before.every, v_before.daily_at),
         app_private.schedule_text(schedule_set.every, schedule_set.daily_at),
         coalesce(v_after.next_run_at, s.next_run_at)
  from app.schedules as s where s.tier = v_tenant.tier and s.shard = v_tenant.shard;
end
$$;

comment on function ops.schedule_set is
  'Gives a tenant turns of its own instead of those of its cohort, among all tenants: every so often, or each day at a time in '
  'its time zone; neither: back to the cohort. Audited. Its last turn counts: the next one comes neither too soon nor too late. '
  'dry_run shows the change without making it. Raises TN101, OP101, OP102.';

grant execute on function ops.schedule_set to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/schedule_set.sql

-- What people and scrapes see of it.
drop view if exists ops.runs;
--! Included app_private/tokens_count.sql
create or replace function app_private.tokens_count(at_most integer) returns integer
language plpgsql
stable
security definer  -- the queue belongs to the owner
set search_path = ''
as $$
begin
  return (select count(*) from (select from graphile_worker.jobs limit at_most) as j);
end
$$;

comment on function app_private.tokens_count is
  'How many tokens are in the queue; counts no further than at_most.';

grant execute on function app_private.tokens_count to holdfast_system;
--! EndIncluded app_private/tokens_count.sql
--! Included app_private/job_gauges.sql
set local role holdfast_system;

create or replace view app_private.job_gauges as
with counted as (
  select r.tenant_id, r.kind, 'running' as state, null::timestamptz as due_at, r.started_at, r.lease_until
  from app.job_runs as r
  where r.state = 'RUNNING'
  union all
  (select r.tenant_id, r.kind, case when r.available_at <= pg_catalog.now() then 'admitted'
                                    when r.state = 'FAILED' then 'retrying' else 'later' end,
          case when r.available_at <= pg_catalog.now() then r.available_at end, null, null
   from app.job_runs as r
   where r.state in ('PENDING', 'FAILED') and r.token_at is not null
   order by r.token_at
   limit 100000)
  union all
  (select r.tenant_id, r.kind, case when r.available_at <= pg_catalog.now() then 'parked'
                                    when r.state = 'FAILED' then 'retrying' else 'later' end,
          case when r.available_at <= pg_catalog.now() then r.available_at end, null, null
   from app.job_runs as r
   where r.state in ('PENDING', 'FAILED') and r.token_at is null
   limit 100000)
  union all
  (select r.tenant_id, r.kind, 'dead_letter', null, null, null
   from app.job_runs as r
   where r.state = 'DEAD_LETTER' and r.discarded_at is null
   limit 100000)
)
select c.kind, t.tier as cohort, c.state, count(*) as runs,
       coalesce(max(extract(epoch from pg_catalog.now() - c.due_at)), 0) as pending_seconds,
       coalesce(max(extract(epoch from pg_catalog.now() - c.started_at)), 0) as running_seconds,
       coalesce(max(extract(epoch from pg_catalog.now() - c.started_at) / k.timeout_seconds), 0)
         as running_ratio,
       min(extract(epoch from c.lease_until - pg_catalog.now())) as lease_seconds
from counted as c
join app.tenants as t on t.tenant_id = c.tenant_id
join app.job_kinds as k on k.kind = c.kind
group by c.kind, t.tier, c.state;

comment on view app_private.job_gauges is
  'The runs that have not ended, and the dead letters, by kind, cohort and state, with the age of the oldest. Counts no '
  'further than 100000 of a state: what is read every few seconds must stay cheap when most is to be read.';

set local role holdfast_owner;
--! EndIncluded app_private/job_gauges.sql
--! Included app_private/turn_gauges.sql
set local role holdfast_system;

create or replace view app_private.turn_gauges as
with ended as (
  select r.tenant_id, count(*)::numeric as runs
  from app.job_runs as r
  where r.finished_at > pg_catalog.now() - interval '5 minutes'
  group by r.tenant_id
)
select 'scheduler_lag_seconds' as name, pg_catalog.jsonb_build_object('cohort', c.tier) as labels,
       case when c.paused_at is null
              then greatest(0, extract(epoch from
                pg_catalog.now() - least(min(s.next_run_at), min(o.next_run_at))))
            else 0 end::double precision as value
from app.tiers as c
join app.schedules as s on s.tier = c.tier
left join lateral (
  select min(x.next_run_at) as next_run_at
  from app.tenant_schedules as x
  join app.tenants as t on t.tenant_id = x.tenant_id and t.tier = c.tier
    and t.status = 'ACTIVE' and t.jobs_paused_at is null) as o on true
group by c.tier
union all
select 'holdfast_scheduler_missed_turns', pg_catalog.jsonb_build_object('cohort', s.tier), sum(s.missed_slots)
from app.schedules as s
group by s.tier
union all
-- Jain: 1 when every tenant had as many, 1/n when one had all.
select 'holdfast_job_fairness_index', '{}',
       pg_catalog.power(sum(e.runs), 2) / (count(*) * sum(e.runs * e.runs))
from ended as e
having count(*) >= 2
union all
select 'holdfast_workers_alive', '{}', count(*)
from app_private.workers_alive;

comment on view app_private.turn_gauges is
  'How late the scheduler is, what it passed over, how evenly tenants were served in the last 5 minutes (Jain''s index of '
  'their ended runs; no row for fewer than two tenants), and how many workers live.';

set local role holdfast_owner;
--! EndIncluded app_private/turn_gauges.sql
--! Included app_private/upkeep_gauges.sql
set local role holdfast_system;

create or replace view app_private.upkeep_gauges as
with tables as (
  -- All months of a table are one; the age is that of the one which needs a vacuum most.
  select coalesce(p.relname, s.relname) as relname, s.n_dead_tup, s.last_autovacuum
  from pg_catalog.pg_stat_all_tables as s
  left join pg_catalog.pg_inherits as i on i.inhrelid = s.relid
  left join pg_catalog.pg_class as p on p.oid = i.inhparent
  where (s.schemaname = 'graphile_worker' and s.relname in ('_private_jobs', '_private_job_queues'))
    or (s.schemaname = 'app'
      and coalesce(p.relname, s.relname) in ('job_runs', 'job_run_events', 'job_gates', 'job_slots')
      and s.relid not in (select t.partrelid from pg_catalog.pg_partitioned_table as t))
)
select 'holdfast_table_dead_tuples' as name, pg_catalog.jsonb_build_object('table', t.relname) as labels,
       sum(t.n_dead_tup)::double precision as value
from tables as t
group by t.relname
union all
select 'holdfast_table_vacuum_age_seconds', pg_catalog.jsonb_build_object('table', t.relname),
       extract(epoch from pg_catalog.now() - (array_agg(t.last_autovacuum order by t.n_dead_tup desc))[1])
from tables as t
group by t.relname
having (array_agg(t.last_autovacuum order by t.n_dead_tup desc))[1] is not null
union all
-- What other logins read is hidden from this one, unless it may read all statistics: those that write show themselves.
select 'holdfast_oldest_xmin_age', '{}', greatest(
  pg_catalog.pg_snapshot_xmax(n.snapshot)::text::numeric
    - pg_catalog.pg_snapshot_xmin(n.snapshot)::text::numeric,
  (select max(pg_catalog.age(s.xmin)) from pg_catalog.pg_replication_slots as s),
  (select max(pg_catalog.age(p.transaction)) from pg_catalog.pg_prepared_xacts as p),
  (select max(pg_catalog.age(a.backend_xmin)) from pg_catalog.pg_stat_activity as a))
from (select pg_catalog.pg_current_snapshot() as snapshot) as n
union all
select 'holdfast_database_deadlocks', '{}', d.deadlocks
from pg_catalog.pg_stat_database as d
where d.datname = pg_catalog.current_database();

comment on view app_private.upkeep_gauges is
  'What makes a queue in a database slow: dead rows of its tables and how long ago a vacuum was (no row: never), transactions '
  'since the oldest snapshot that is known, and deadlocks since the statistics were reset.';

set local role holdfast_owner;
--! EndIncluded app_private/upkeep_gauges.sql
--! Included app_private/replay_gauges.sql
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
--! EndIncluded app_private/replay_gauges.sql
--! Included app/job_metrics.sql
set local role holdfast_system;

create or replace function app.job_metrics() returns table (name text, labels jsonb, value double precision)
language plpgsql
stable
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
begin
  return query
  with gauges as materialized (select * from app_private.job_gauges),
  cohorts as (
    select g.kind, g.cohort, pg_catalog.jsonb_build_object('job_type', g.kind, 'cohort', g.cohort) as labels,
           max(g.pending_seconds) as pending, max(g.running_seconds) as running, max(g.running_ratio) as ratio
    from gauges as g
    group by g.kind, g.cohort
  )
  select 'holdfast_job_runs',
         pg_catalog.jsonb_build_object('job_type', k.kind, 'cohort', c.tier, 'state', s.state),
         coalesce(g.runs, 0)::double precision
  from app.job_kinds as k
  cross join app.tiers as c
  cross join unnest(array['parked', 'admitted', 'later', 'running', 'retrying', 'dead_letter']) as s (state)
  left join gauges as g on g.kind = k.kind and g.cohort = c.tier and g.state = s.state
  union all
  select 'holdfast_job_oldest_pending_seconds', c.labels, c.pending::double precision from cohorts as c
  union all
  select 'holdfast_job_oldest_running_seconds', c.labels, c.running::double precision from cohorts as c
  union all
  select 'holdfast_job_oldest_running_ratio', c.labels, c.ratio::double precision from cohorts as c
  union all
  select 'holdfast_job_lease_margin_seconds', pg_catalog.jsonb_build_object('job_type', g.kind),
         min(g.lease_seconds)::double precision
  from gauges as g
  where g.state = 'running'
  group by g.kind
  union all
  select 'holdfast_queue_tokens', '{}', app_private.tokens_count(100000)
  union all
  select t.name, t.labels, t.value from app_private.turn_gauges as t
  union all
  select u.name, u.labels, u.value from app_private.upkeep_gauges as u
  union all
  select p.name, p.labels, p.value from app_private.replay_gauges as p;
end
$$;

comment on function app.job_metrics is
  'What a scrape shows of the database, among all tenants and naming none: runs by kind, cohort and state, ages in seconds, '
  'tokens, lateness of the scheduler, fairness, upkeep, replays. Counts no further than 100000 of a state.';

grant execute on function app.job_metrics to holdfast_metrics, holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/job_metrics.sql
--! Included app/worker_seen.sql
set local role holdfast_system;

create or replace function app.worker_seen(host text, pid integer) returns boolean
language plpgsql
stable
security definer  -- sees all tenants; a worker has none
set search_path = ''
set row_security = on
as $$
begin
  return exists (
    select from app.job_workers as w
    where w.host = worker_seen.host and w.pid = worker_seen.pid
      and w.seen_at > pg_catalog.clock_timestamp() - interval '20 seconds');
end
$$;

comment on function app.worker_seen is
  'Whether that process is registered as a worker, for all tenants, and has beaten within 20 s: so it says that it is ready.';

grant execute on function app.worker_seen to holdfast_worker;

set local role holdfast_owner;
--! EndIncluded app/worker_seen.sql
--! Included app_private/ago.sql
create or replace function app_private.ago(span interval) returns text
language sql
immutable
parallel safe
return case
  when span is null then null
  when span < interval '100 seconds' then pg_catalog.floor(extract(epoch from span)) || 's'
  when span < interval '100 minutes' then pg_catalog.floor(extract(epoch from span) / 60) || 'm'
  when span < interval '48 hours' then pg_catalog.floor(extract(epoch from span) / 3600) || 'h'
  else pg_catalog.floor(extract(epoch from span) / 86400) || 'd' end;

comment on function app_private.ago is 'A span of time in its largest unit, rounded down: 12s, 3m, 5h, 9d.';

grant execute on function app_private.ago to holdfast_system, holdfast_ops;
--! EndIncluded app_private/ago.sql
--! Included app_private/wait_why.sql
create or replace function app_private.wait_why(
  cause text, kind text, tier text, used bigint, size integer, error_code text, at timestamptz) returns text
language sql
stable
parallel safe
return case cause
  when 'suspended' then 'its tenant is suspended'
  when 'tenant_paused' then 'its tenant is paused'
  when 'kind_paused' then 'the kind ' || kind || ' is paused'
  when 'cohort_paused' then 'the cohort ' || tier || ' is paused'
  when 'later' then 'due at ' || pg_catalog.date_trunc('second', at)
  when 'retry' then 'next try at ' || pg_catalog.date_trunc('second', at) || ', after ' || error_code
  when 'rate' then 'the rate of its kind: next start at ' || pg_catalog.date_trunc('second', at)
  when 'no_worker' then 'no worker lives'
  when 'no_worker_of_kind' then 'no living worker serves ' || kind
  when 'places' then 'its tenant has all places of this kind taken: ' || used || ' of ' || size
  when 'unadmitted' then 'it has a place, and its token within seconds'
  when 'token_lost' then 'its token was lost: queued again within 15 s'
  when 'queued' then 'all workers are busy: it waits in the queue' end;

comment on function app_private.wait_why is
  'In words why a run waits, by the cause that app_private.run_waits found.';

grant execute on function app_private.wait_why to holdfast_system, holdfast_ops;
--! EndIncluded app_private/wait_why.sql
--! Included app_private/wait_fix.sql
create or replace function app_private.wait_fix(cause text, tenant text, kind text, tier text, run_id uuid)
returns text
language sql
stable
parallel safe
return case cause
  when 'suspended' then '-- nothing of a suspended tenant starts'
  when 'tenant_paused' then
    pg_catalog.format('select * from ops.job_resume(tenant => %L, reason => ''…'')', tenant)
  when 'kind_paused' then
    pg_catalog.format('select * from ops.job_resume(kind => %L, reason => ''…'')', kind)
  when 'cohort_paused' then
    pg_catalog.format('select * from ops.job_resume(cohort => %L, reason => ''…'')', tier)
  when 'retry' then pg_catalog.format('select * from ops.job_show(%L)', run_id)
  when 'rate' then pg_catalog.format(
    'select * from ops.job_kind_set(%L, rate_per_minute => …, reason => ''…'')', kind)
  when 'places' then pg_catalog.format(
    'select * from ops.job_kind_set(%L, max_running => …, reason => ''…'')', kind)
  when 'no_worker' then '-- npm run worker'
  when 'no_worker_of_kind' then
    '-- npm run worker, of a version that has a task for it; select * from ops.workers'
  when 'unadmitted' then 'select * from app.job_admit()'
  when 'token_lost' then 'select * from app.tokens_repair()'
  when 'queued' then
    '-- npm run worker, once more, or a higher WORKER_CONCURRENCY; select * from ops.workers' end;

comment on function app_private.wait_fix is
  'What to type where a run waits, by the cause that app_private.run_waits found; null where nothing is to be done. In a '
  'comment: on the machine of a worker.';

grant execute on function app_private.wait_fix to holdfast_system, holdfast_ops;
--! EndIncluded app_private/wait_fix.sql
--! Included app_private/run_waits.sql
set local role holdfast_system;

create or replace view app_private.run_waits as
with alive as (
  select count(*) as workers, coalesce(array_agg(distinct s.kind), '{}') as kinds
  from app_private.workers_alive as w
  cross join lateral unnest(w.kinds) as s (kind)
)
select r.tenant_id, t.name as tenant, r.id, r.kind, t.tier, r.state, r.attempt, r.priority, r.available_at,
       r.token_at, r.error_code, r.used, w.size,
       case when t.status <> 'ACTIVE' then t.updated_at
            when t.jobs_paused_at is not null then greatest(t.jobs_paused_at, r.created_at)
            when k.paused_at is not null then greatest(k.paused_at, r.created_at)
            when c.paused_at is not null then greatest(c.paused_at, r.created_at)
            when r.available_at > pg_catalog.now() or r.kind <> all (a.kinds)
              then coalesce(r.started_at, r.created_at)
            else greatest(r.available_at, r.created_at) end as since,
       case when t.status <> 'ACTIVE' then 'suspended'
            when t.jobs_paused_at is not null then 'tenant_paused'
            when k.paused_at is not null then 'kind_paused'
            when c.paused_at is not null then 'cohort_paused'
            when r.available_at > pg_catalog.now() and r.token_at is not null
              and k.rate_per_minute is not null
              and app_private.starts_left(
                g.starts_left, g.refilled_at, pg_catalog.now(), k.rate_per_minute, k.rate_burst) < 1
              then 'rate'
            -- A worker that does not serve it has put it off for 5 s.
            when r.available_at > pg_catalog.now() + interval '6 seconds' then
              case when r.state = 'FAILED' then 'retry' else 'later' end
            when a.workers = 0 then 'no_worker'
            when r.kind <> all (a.kinds) then 'no_worker_of_kind'
            when r.available_at > pg_catalog.now() and r.state = 'FAILED' then 'retry'
            when r.available_at > pg_catalog.now() then 'later'
            when r.token_at is not null then 'queued'
            when r.used >= w.size then 'places'
            else 'unadmitted' end as cause
from (
  select x.tenant_id, x.id, x.kind, x.state, x.attempt, x.priority, x.available_at, x.token_at, x.error_code,
         x.created_at, x.started_at,
         count(*) filter (
           where x.token_at is not null and (x.state <> 'FAILED' or x.available_at <= pg_catalog.now()))
           over (partition by x.tenant_id, x.kind) as used
  from app.job_runs as x
  where x.state in ('PENDING', 'RUNNING', 'FAILED')) as r
join app.tenants as t on t.tenant_id = r.tenant_id
join app.tiers as c on c.tier = t.tier
join app.job_kinds as k on k.kind = r.kind
left join app.job_gates as g on g.tenant_id = r.tenant_id and g.kind = r.kind
cross join alive as a
cross join lateral (select app_private.job_depth(k, c.weight) as size) as w
where r.state <> 'RUNNING';

comment on view app_private.run_waits is
  'Every run that waits, since when and by which cause; used of size places of its tenant and kind are taken. Whether a '
  'token is in the queue is not looked at: see ops.why_waiting.';

set local role holdfast_owner;
--! EndIncluded app_private/run_waits.sql
--! Included app_private/slot_waits.sql
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
--! EndIncluded app_private/slot_waits.sql
--! Included app_private/token_places.sql
create or replace function app_private.token_places(keys text[]) returns table (key text, ahead integer)
language plpgsql
stable
security definer  -- the queue belongs to the owner
set search_path = ''
as $$
begin
  return query
  with ready as (
    select j.key, (row_number() over (order by j.priority, j.run_at, j.id))::integer as place
    from graphile_worker.jobs as j
    where j.locked_at is null and j.attempts < j.max_attempts and j.run_at <= pg_catalog.now()
    order by j.priority, j.run_at, j.id
    limit 10000
  )
  select j.key, coalesce(r.place - 1, case when j.locked_at is null then 10000 else 0 end)
  from graphile_worker.jobs as j
  left join ready as r on r.key = j.key
  where j.key = any (keys) and j.attempts < j.max_attempts;
end
$$;

comment on function app_private.token_places is
  'How many tokens of the queue go before each of these; 10000 stands for that many or more, and one that is not there has '
  'no row.';

grant execute on function app_private.token_places to holdfast_system;
--! EndIncluded app_private/token_places.sql
--! Included ops/jobs.sql
set local role holdfast_system;

create or replace view ops.jobs as
select pg_catalog.left(t.name, 14) as tenant, pg_catalog.left(r.kind, 11) as kind, r.state,
       app_private.ago(pg_catalog.now() - r.at) as ago,
       pg_catalog.left(concat_ws(' ',
         case when r.cancel_requested_at is not null and r.state = 'RUNNING' then 'cancelling' end,
         case when r.state <> 'COMPLETED' and r.state <> 'RUNNING' then r.error_code end,
         case when r.state = 'RUNNING' then round(r.progress * 100) || '%' end,
         case when r.state = 'RUNNING' then app_private.ago(pg_catalog.clock_timestamp() - r.started_at)
              when r.finished_at is not null then
                round(extract(epoch from r.finished_at - r.started_at), 1) || 's' end,
         case when r.attempt > 1 then 'try ' || r.attempt end,
         case when r.state = 'RUNNING' then r.progress_text end), 16) as note,
       r.id
from (
  (select x.tenant_id, x.id, x.kind, x.state, x.attempt, x.error_code, x.progress, x.progress_text,
          x.started_at, x.finished_at, x.cancel_requested_at, x.finished_at as at
   from app.job_runs as x
   where x.finished_at is not null
   order by x.finished_at desc)
  union all
  (select x.tenant_id, x.id, x.kind, x.state, x.attempt, x.error_code, x.progress, x.progress_text,
          x.started_at, x.finished_at, x.cancel_requested_at, coalesce(x.started_at, x.created_at)
   from app.job_runs as x
   where x.state in ('PENDING', 'RUNNING', 'FAILED')
   order by coalesce(x.started_at, x.created_at) desc)) as r
join app.tenants as t on t.tenant_id = r.tenant_id
order by r.at desc;

comment on view ops.jobs is
  'Every run, long names cut, newest first by when it ended, else began, else was made. note: the error, how much is done, how long it took, '
  'which try it is. ops.job_show tells all of one.';

grant select on ops.jobs to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/jobs.sql
--! Included ops/dead_letters.sql
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
--! EndIncluded ops/dead_letters.sql
--! Included ops/queue.sql
set local role holdfast_system;

create or replace view ops.queue as
with live as (
  select r.kind,
         count(*) filter (where r.state = 'RUNNING') as running,
         count(*) filter (where r.state <> 'RUNNING' and r.available_at <= pg_catalog.now()
                            and r.token_at is not null) as admitted,
         count(*) filter (where r.state <> 'RUNNING' and r.available_at <= pg_catalog.now()
                            and r.token_at is null) as parked,
         count(*) filter (where r.state = 'FAILED' and r.available_at > pg_catalog.now()) as retrying,
         count(*) filter (where r.state = 'PENDING' and r.available_at > pg_catalog.now()) as later,
         count(distinct r.tenant_id) as tenants,
         min(r.available_at) filter (where r.state <> 'RUNNING') as oldest
  from app.job_runs as r
  where r.state in ('PENDING', 'RUNNING', 'FAILED')
  group by r.kind
), dead as (
  select r.kind, count(*) as runs
  from app.job_runs as r
  where r.state = 'DEAD_LETTER' and r.discarded_at is null
  group by r.kind
)
select pg_catalog.left(k.kind, 20) as kind,
       coalesce(l.parked, 0) as parked, coalesce(l.admitted, 0) as admitted,
       coalesce(l.running, 0) as running, coalesce(l.retrying, 0) as retrying, coalesce(l.later, 0) as later,
       coalesce(d.runs, 0) as dead, coalesce(l.tenants, 0) as tenants,
       app_private.ago(case when l.oldest <= pg_catalog.now() then pg_catalog.now() - l.oldest end) as waits,
       app_private.ago(pg_catalog.now() - k.paused_at) as paused
from app.job_kinds as k
left join live as l on l.kind = k.kind
left join dead as d on d.kind = k.kind
order by k.slot_order, k.kind;

comment on view ops.queue is
  'Each kind of run in one line. parked: due, until its tenant has a place; admitted: its token is in the queue; retrying: '
  'waits after a failure; later: due at a later moment; dead: dead letters that wait for a person; waits: how long the oldest '
  'due run has; paused: for how long.';

grant select on ops.queue to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/queue.sql
--! Included ops/schedules.sql
set local role holdfast_system;

create or replace view ops.schedules as
select s.schedule, s.every, s.tenants, s.due, app_private.ago(s.lag) as lag,
       pg_catalog.to_char(s.next_run_at, 'MM-DD HH24:MI') as next_turn, s.missed, s.policy,
       app_private.ago(pg_catalog.now() - s.paused_at) as paused
from (
  select c.tier as schedule, c.rank::integer as rank, pg_catalog.left(c.every::text, 15) as every,
         n.tenants, x.due,
         case when x.due > 0 and c.paused_at is null then pg_catalog.now() - x.next_run_at end as lag,
         x.next_run_at, x.missed, c.missed || '/' || c.overlap as policy, c.paused_at
  from app.tiers as c
  cross join lateral (
    select count(*) filter (where h.next_run_at <= pg_catalog.now()) as due,
           min(h.next_run_at) as next_run_at, coalesce(sum(h.missed_slots), 0)::bigint as missed
    from app.schedules as h where h.tier = c.tier) as x
  cross join lateral (
    select count(*) as tenants from app.tenants as t
    where t.tier = c.tier and t.status = 'ACTIVE'
      and not exists (select from app.tenant_schedules as o where o.tenant_id = t.tenant_id)) as n
  union all
  select pg_catalog.left(t.name, 20), 1000000,
         coalesce(pg_catalog.left(o.every::text, 15), 'daily ' || pg_catalog.left(o.daily_at::text, 5)), 1,
         (o.next_run_at <= pg_catalog.now())::integer,
         case when o.next_run_at <= pg_catalog.now() and t.jobs_paused_at is null and c.paused_at is null
                and t.status = 'ACTIVE' then pg_catalog.now() - o.next_run_at end,
         o.next_run_at, o.missed_slots, c.missed || '/' || c.overlap, least(t.jobs_paused_at, c.paused_at)
  from app.tenant_schedules as o
  join app.tenants as t on t.tenant_id = o.tenant_id
  join app.tiers as c on c.tier = t.tier) as s
order by s.rank, s.schedule;

comment on view ops.schedules is
  'When turns are due: a line for each cohort, then one for each tenant with turns of its own. due: shards that wait for the '
  'next tick, lag: for how long; missed: turns that passed without runs; policy: for missed turns / for overlaps.';

grant select on ops.schedules to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/schedules.sql
--! Included ops/workers.sql
set local role holdfast_system;

create or replace view ops.workers as
select pg_catalog.right(w.worker, 8) as worker, pg_catalog.left(w.host, 14) as host, w.pid,
       pg_catalog.left(w.version, 8) as version,
       pg_catalog.left(pg_catalog.array_to_string(w.kinds, ','), 30) as kinds,
       w.running || '/' || w.concurrency as running,
       app_private.ago(greatest(pg_catalog.now() - w.seen_at, interval '0')) as seen,
       case when w.seen_at > pg_catalog.now() - interval '11 seconds' then 'alive' else 'late' end as verdict
from app.job_workers as w
order by w.host, w.started_at;

comment on view ops.workers is
  'Every worker process: the end of its name, what it has tasks for, how many runs it has of those it takes at a time, and when '
  'it last beat. late: two beats were lost; after 20 s it is removed, and its runs go to others.';

grant select on ops.workers to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/workers.sql
--! Included ops/stuck.sql
set local role holdfast_system;

create or replace view ops.stuck as
with waits as (
  -- A queue that is behind is one thing, however many tenants wait in it.
  select case when w.cause = 'queued' then count(distinct w.tenant_id) || ' tenants' else min(w.tenant) end
           as tenant,
         min(w.tenant) as name, w.kind, w.cause, min(w.tier) as tier, min(w.since) as since, count(*) as runs,
         max(w.used) as used, max(w.size) as size
  from app_private.run_waits as w
  where w.since < pg_catalog.now() - interval '1 minute'
    and (w.available_at < pg_catalog.now() - interval '1 minute' or w.cause = 'no_worker_of_kind')
    and w.cause not in ('tenant_paused', 'kind_paused', 'cohort_paused', 'no_worker')
  group by w.kind, w.cause, case when w.cause <> 'queued' then w.tenant_id end
)
select s.what, pg_catalog.left(s.tenant, 20) as tenant, s.kind,
       pg_catalog.date_trunc('second', s.since) as since, s.why, s.fix
from (
  select 'no worker' as what, null as tenant, null as kind,
         (select max(w.seen_at) from app.job_workers as w) as since, 'no worker lives' as why,
         '-- npm run worker' as fix
  where not exists (select from app_private.workers_alive)
  union all
  select 'worker late', null, null, w.seen_at, w.worker || ' does not beat',
         'select * from app.workers_reap() -- once it was not heard of for 20 s; or look after pid ' || w.pid
           || ' on ' || w.host
  from app.job_workers as w
  where w.seen_at <= pg_catalog.now() - interval '11 seconds'
  union all
  select case when r.cancel_requested_at is not null then 'cancelling' else 'slow run' end, t.name, r.kind,
         coalesce(r.cancel_requested_at, r.started_at),
         concat_ws(', ',
           'runs for ' || app_private.ago(pg_catalog.now() - r.started_at) || ' of '
             || app_private.ago(k.timeout_seconds * interval '1 second'),
           'try ' || r.attempt, round(r.progress * 100) || ' % done', r.progress_text),
         pg_catalog.format(
           'select * from ops.job_cancel(%L, actor => ''…'', reason => ''…'', force => true)', r.id)
  from app.job_runs as r
  join app.tenants as t on t.tenant_id = r.tenant_id
  join app.job_kinds as k on k.kind = r.kind
  where r.state = 'RUNNING' and (r.cancel_requested_at is not null
    or r.started_at < pg_catalog.now() - 0.8 * k.timeout_seconds * interval '1 second')
  union all
  select 'waiting', w.tenant, w.kind, w.since,
         w.runs || case when w.runs = 1 then ' run: ' else ' runs: ' end
           || app_private.wait_why(w.cause, w.kind, w.tier, w.used, w.size, null, null),
         app_private.wait_fix(w.cause, w.name, w.kind, w.tier, null)
  from waits as w
  union all
  select 'dead letters', t.name, r.kind, min(r.finished_at), count(*) || ' by ' || r.error_code,
         pg_catalog.format(
           'select * from ops.job_replay(%L, actor => ''…'', reason => ''…'', dry_run => false)',
           pg_catalog.jsonb_build_object('tenant', t.name, 'kind', r.kind, 'error_code', r.error_code))
  from app.job_runs as r
  join app.tenants as t on t.tenant_id = r.tenant_id
  where r.state = 'DEAD_LETTER' and r.discarded_at is null
  group by t.name, r.kind, r.error_code
  union all
  select 'paused', t.name, null, t.jobs_paused_at, 'its tenant is paused',
         app_private.wait_fix('tenant_paused', t.name, null, null, null)
  from app.tenants as t where t.jobs_paused_at is not null
  union all
  select 'paused', null, k.kind, k.paused_at, 'the kind is paused',
         app_private.wait_fix('kind_paused', null, k.kind, null, null)
  from app.job_kinds as k where k.paused_at is not null
  union all
  select 'paused', null, null, c.paused_at, 'the cohort ' || c.tier || ' is paused',
         app_private.wait_fix('cohort_paused', null, null, c.tier, null)
  from app.tiers as c where c.paused_at is not null
  union all
  select 'schedule late', null, null, l.since,
         'the cohort ' || c.tier || ': ' || l.shards || ' shards wait for a tick',
         'select * from app.schedule_tick()'
  from app.tiers as c
  cross join lateral (
    select min(h.next_run_at) as since, count(*) as shards from app.schedules as h
    where h.tier = c.tier and h.next_run_at < pg_catalog.now() - interval '2 minutes') as l
  where l.shards > 0 and c.paused_at is null
  union all
  select 'schedule late', t.name, null, o.next_run_at, 'a turn of its own waits for a tick',
         'select * from app.schedule_tick()'
  from app.tenant_schedules as o
  join app.tenants as t on t.tenant_id = o.tenant_id and t.status = 'ACTIVE' and t.jobs_paused_at is null
  join app.tiers as c on c.tier = t.tier and c.paused_at is null
  where o.next_run_at < pg_catalog.now() - interval '2 minutes') as s
order by s.since nulls first;

comment on view ops.stuck is
  'What needs a person, with since when, why, and what to type; no row is good. A run that is cancelled, or near the end of its '
  'time; runs that wait for more than a minute; dead letters; what is paused; cohorts whose turns are 2 minutes late; workers '
  'that do not beat.';

grant select on ops.stuck to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/stuck.sql
--! Included ops/why_waiting.sql
set local role holdfast_system;

create or replace function ops.why_waiting(tenant text)
returns table (run uuid, kind text, state text, since timestamptz, why text, fix text)
language plpgsql
stable
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(why_waiting.tenant);
begin
  return query
  with waits as materialized (
    select x.*, 'run:' || x.id || ':' || x.attempt as key
    from (
      select w.*, count(*) over () as runs,
             row_number() over (partition by w.kind, w.cause order by w.priority, w.available_at, w.id) as n
      from app_private.run_waits as w
      where w.tenant_id = v_tenant_id) as x
    -- The first of each kind and cause, so that a thousand alike do not hide one that is not.
    order by x.n > 10, x.available_at > pg_catalog.now(), x.token_at is null, x.priority, x.available_at, x.id
    limit 100
  ),
  causes as (
    select w.*, p.ahead,
           case when w.cause = 'queued' and p.key is null then 'token_lost' else w.cause end as found
    from waits as w
    left join app_private.token_places(array(select x.key from waits as x where x.cause = 'queued')) as p
      on p.key = w.key
  )
  select c.id, c.kind, c.state, pg_catalog.date_trunc('second', c.since),
         case when c.found <> 'queued' then
                app_private.wait_why(c.found, c.kind, c.tier, c.used, c.size, c.error_code, c.available_at)
              when c.ahead = 0 then 'next in the queue: a worker takes it when one is free'
              else 'waits in the queue behind ' || c.ahead
                || case when c.ahead >= 10000 then ' or more' else '' end || ' others' end,
         app_private.wait_fix(c.found, why_waiting.tenant, c.kind, c.tier, c.id)
  from causes as c
  union all
  select null, null, null, null, 'and ' || (max(w.runs) - 100) || ' more',
         pg_catalog.format('select * from ops.jobs where tenant = %L',
           pg_catalog.left(why_waiting.tenant, 14))
  from waits as w
  having max(w.runs) > 100
  union all
  select null, s.kind, null, pg_catalog.date_trunc('second', s.since),
         'its turn has not come to it: the ' || s.after || ' before it has not ended',
         pg_catalog.format('select * from ops.job_show(%L)', s.run_id)
  from app_private.slot_waits as s
  where s.tenant_id = v_tenant_id
  union all
  select null, r.kind, 'DEAD_LETTER', pg_catalog.date_trunc('second', min(r.finished_at)),
         count(*) || case when count(*) = 1 then ' dead letter waits' else ' dead letters wait' end
           || ' for a person: ' || r.error_code,
         pg_catalog.format(
           'select * from ops.job_replay(%L, actor => ''…'', reason => ''…'', dry_run => false)',
           pg_catalog.jsonb_build_object(
             'tenant', why_waiting.tenant, 'kind', r.kind, 'error_code', r.error_code))
  from app.job_runs as r
  where r.tenant_id = v_tenant_id and r.state = 'DEAD_LETTER' and r.discarded_at is null
  group by r.kind, r.error_code;
end
$$;

comment on function ops.why_waiting is
  'Why each run of a tenant that has not ended does not run, in words, and what to type; among all tenants. The first 100, how '
  'many more there are, the kinds that follow in the turns under way, and the dead letters. Raises TN101.';

grant execute on function ops.why_waiting to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/why_waiting.sql
--! Included ops/metrics.sql
create or replace view ops.metrics as
select m.name, m.labels, m.value
from app.job_metrics() as m
order by m.name, m.labels;

comment on view ops.metrics is
  'What a scrape of a worker shows of the database, for those who scrape with SQL: see app.job_metrics.';

grant select on ops.metrics to holdfast_ops, holdfast_metrics;
--! EndIncluded ops/metrics.sql
--! Included ops/run_events.sql
set local role holdfast_system;

create or replace view ops.run_events as
select t.name as tenant, e.created_at, e.from_state, e.to_state, e.attempt, e.actor, e.reason, e.run_id
from app.job_run_events as e
join app.tenants as t on t.tenant_id = e.tenant_id
order by e.id;

comment on view ops.run_events is 'Each change of state of each run, oldest first; filter it by the id of ops.jobs.';

grant select on ops.run_events to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/run_events.sql
--! Included ops/help.sql
create or replace view ops.help as
select h.name, h.example, h.meaning
from (values
  ('ops.report',        'select * from ops.report',
   'One line per tenant: costs, findings, saving, budget, state.'),
  ('ops.findings',      'select tenant, severity, saving, cur, headline from ops.findings limit 10',
   'What was found and stands, best first.'),
  ('ops.findings_all',  'select tenant, state, headline from ops.findings_all limit 10',
   'Every finding, what has ended too.'),
  ('ops.cost_daily',
   'select day, sum(effective_cost), cur from ops.cost_daily group by day, cur order by day desc limit 10',
   'What the detectors read; the query in a finding''s evidence reads it.'),
  ('ops.budgets',       'select * from ops.budgets',       'What each tenant may spend, has spent and has left.'),
  ('ops.llm_calls',     'select * from ops.llm_calls limit 10', 'Each call to a model: held, cost, tokens.'),
  ('ops.imports',       'select * from ops.imports limit 10', 'Each cost file: flags, or why it was refused.'),
  ('ops.stuck',         'select * from ops.stuck',       'What needs a person: since when, why, what to type. No row is good.'),
  ('ops.why_waiting',
   'select w.* from ops.tenants as t, ops.why_waiting(t.tenant) as w limit 20',
   'Why each run of a tenant does not run yet, in words.'),
  ('ops.queue',         'select * from ops.queue',       'Each kind of job: parked, admitted, running, retrying, dead.'),
  ('ops.jobs',          'select * from ops.jobs limit 20', 'Each job, newest first.'),
  ('ops.schedules',     'select * from ops.schedules',   'When each cohort has its turns, and how late it is.'),
  ('ops.workers',       'select * from ops.workers',     'Who works, on what, and when it last beat.'),
  ('ops.run_events',    'select * from ops.run_events order by created_at desc limit 10',
   'Each change of state of each run.'),
  ('ops.tenants',       'select * from ops.tenants',       'Who is there.'),
  ('ops.audit_log',     'select * from ops.audit_log order by id desc limit 10', 'What people changed, and why.'),
  ('ops.doctor',        'select * from ops.doctor()',
   'What of the isolation is missing on this server, and the statement that mends it.'),
  ('ops.ticket_keys',   'select * from ops.ticket_keys',   'The keys that tickets are verified with.'),
  ('ops.ticket_key_set',
   'select * from ops.ticket_key_set(kid => 1, binding => ''none'', reason => ''behind PgBouncer'', dry_run => true)',
   'Say whether tickets of a key name their backend.'),
  ('ops.ticket_key_retire',
   'select * from ops.ticket_key_retire(kid => 1, reason => ''2 has replaced it'', after => ''10 minutes'')',
   'End a ticket key when another is in use.'),
  ('ops.tenant_add',
   'select * from ops.tenant_add(name => ''Acme'', limit_usd => 25, reason => ''new customer'')',
   'Make a tenant with a monthly budget.'),
  ('ops.become',        'select * from ops.become(''Acme'', reason => ''a question of theirs'')',
   'Take a ticket for a tenant into this session; audited.'),
  ('ops.enter',         'begin; select ops.enter(); select count(*) from tenant.findings; commit',
   'See what the tenant of ops.become sees, for one transaction.'),
  ('ops.budget_set',
   'select * from ops.budget_set(tenant => ''Acme'', limit_usd => 50, reason => ''asked for more'')',
   'Change a budget.'),
  ('ops.dead_letters',  'select * from ops.dead_letters limit 20',
   'Jobs that were given up, until a person replays or discards them.'),
  ('ops.job_show',
   'select s.* from (select j.id from ops.jobs as j limit 1) as r, ops.job_show(r.id) as s',
   'All that happened to one job, in order.'),
  ('ops.job_replay',
   'select * from ops.job_replay(''{"kind": "analysis"}'', actor => ''me'', reason => ''the cause is mended'')',
   'Run dead letters again, so many a second; shows them only, unless dry_run => false.'),
  ('ops.job_discard',
   'select * from ops.job_discard(''{"kind": "analysis"}'', actor => ''me'', reason => ''of no use any more'')',
   'Put dead letters aside; shows them only, unless dry_run => false.'),
  ('ops.job_cancel',
   'select c.* from ops.jobs as j, ops.job_cancel(j.id, ''me'', ''not wanted'', dry_run => true) as c where j.state = ''RUNNING''',
   'End a job that waits or runs; force => true does not wait for its task.'),
  ('ops.job_enqueue',
   'select * from ops.job_enqueue(tenant => ''Acme'', kind => ''detection'', reason => ''a question'', dry_run => true)',
   'Ask for a job of a tenant.'),
  ('ops.job_pause',
   'select * from ops.job_pause(kind => ''analysis'', reason => ''the provider is down'', dry_run => true)',
   'Start no more jobs of a kind, a tenant or a cohort.'),
  ('ops.job_resume',
   'select * from ops.job_resume(kind => ''analysis'', reason => ''it is up again'', dry_run => true)',
   'Start them again.'),
  ('ops.job_kind_set',
   'select * from ops.job_kind_set(''analysis'', max_running => 2, reason => ''more at once'', dry_run => true)',
   'Change the limits of a kind of job: time, retries, places, rate.'),
  ('ops.cost_sources',  'select * from ops.cost_sources', 'Where the workers find each tenant''s cost files.'),
  ('ops.cost_source_set',
   'select * from ops.cost_source_set(tenant => ''Acme'', source => ''aws'', path => ''/exports/acme.csv.gz'', reason => ''new export'', dry_run => true)',
   'Have the workers import a file at each turn of a tenant, when it has changed.'),
  ('ops.cost_source_drop',
   'select d.* from ops.cost_sources as s, ops.cost_source_drop(s.tenant, s.source, ''moved'', dry_run => true) as d',
   'Forget a source; what was imported stays.'),
  ('ops.retentions',    'select * from ops.retentions',  'How long tables are kept, and which month goes next.'),
  ('ops.retention_set',
   'select * from ops.retention_set(''events'', ''180 days'', reason => ''an audit asks for it'', dry_run => true)',
   'Keep a table for longer, or shorter.'),
  ('ops.tier_set',
   'select * from ops.tier_set(''DORMANT'', every => ''12 hours'', reason => ''a quiet season'', dry_run => true)',
   'Change a cohort: how often, which share, what becomes of turns that were missed or overlap.'),
  ('ops.tenant_set',
   'select * from ops.tenant_set(tenant => ''Acme'', plan => ''pro'', reason => ''they upgraded'', dry_run => true)',
   'Change the plan of a tenant, or pin its cohort.'),
  ('ops.schedule_set',
   'select * from ops.schedule_set(tenant => ''Acme'', daily_at => ''06:00'', reason => ''as agreed'', dry_run => true)',
   'Give a tenant turns of its own.'),
  ('ops.llm_price_set',
   'select * from ops.llm_price_set(''api.example.com'', ''model'', 0.4, 1.6, reason => ''price list of May'')',
   'Set the price of a model.'),
  ('ops.llm_write_off',
   'select w.* from ops.llm_calls as c, ops.llm_write_off(c.id, ''not billed'', true) as w where c.status = ''PRESUMED''',
   'Give back what a PRESUMED hold counts, once the bill shows that it was not charged.'),
  ('app.llm_check',     'select * from app.llm_check()',   'Broken invariants of the budget; no row is good.'),
  ('ops.metrics',       'select * from ops.metrics',     'What a scrape of a worker shows of the database.'),
  ('app.error_codes',   'select * from app.error_codes',   'What each error code means.'),
  ('app_private.lint',  'select * from app_private.lint',  'House rules that are broken; no row is good.')
) as h (name, example, meaning);

comment on view ops.help is 'What there is for people in psql, with an example each.';

grant select on ops.help to holdfast_ops;
--! EndIncluded ops/help.sql
--! Included app_private/schema_snapshot.sql
create or replace view app_private.schema_snapshot as
with relations as (
  select c.oid, c.relkind, c.reltype, c.relowner, c.relacl, c.reloptions, c.relrowsecurity,
         c.relforcerowsecurity
  from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n
    on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
  where c.relkind in ('r', 'p', 'v', 'm', 'c', 'S')
    and not c.relispartition  -- partitions depend on the day they were made
)
select 'relation' as kind, r.oid::regclass::text as name,
       concat_ws(' ', r.relkind, r.relowner::regrole, r.reloptions, r.relrowsecurity, r.relforcerowsecurity,
         pg_catalog.pg_get_partkeydef(r.oid),
         case when r.relkind in ('v', 'm') then pg_catalog.pg_get_viewdef(r.oid) end,
         (select string_agg(x::text, ' ' order by x::text) from unnest(r.relacl) as x),
         (select string_agg(x::text, ' ' order by x::text)
          from pg_catalog.pg_type as t cross join lateral unnest(t.typacl) as x where t.typrelid = r.oid),
         pg_catalog.obj_description(r.oid, 'pg_class'),
         case when r.relkind = 'c' then pg_catalog.obj_description(r.reltype, 'pg_type') end) as definition
from relations as r
union all
select 'column', r.oid::regclass::text || '.' || a.attname,
       concat_ws(' ', n.place, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated,
         a.attidentity, a.attstorage, a.attacl,
         pg_catalog.pg_get_expr(d.adbin, d.adrelid), pg_catalog.col_description(r.oid, a.attnum))
from relations as r
join pg_catalog.pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
-- Its place among the columns that are there: those that were dropped keep their numbers.
cross join lateral (
  select count(*) as place from pg_catalog.pg_attribute as x
  where x.attrelid = r.oid and x.attnum between 1 and a.attnum and not x.attisdropped) as n
union all
select 'constraint', r.oid::regclass::text || ' ' || k.conname, pg_catalog.pg_get_constraintdef(k.oid)
from relations as r
join pg_catalog.pg_constraint as k on k.conrelid = r.oid and k.contype <> 'n'
union all
select 'index', i.indexrelid::regclass::text,
       concat_ws(' ', i.indisvalid, pg_catalog.pg_get_indexdef(i.indexrelid))
from relations as r
join pg_catalog.pg_index as i on i.indrelid = r.oid
union all
select 'trigger', r.oid::regclass::text || ' ' || t.tgname,
       concat_ws(' ', t.tgenabled, pg_catalog.pg_get_triggerdef(t.oid))
from relations as r
join pg_catalog.pg_trigger as t on t.tgrelid = r.oid and not t.tgisinternal
union all
select 'policy', r.oid::regclass::text || ' ' || p.polname,
       concat_ws(' ', p.polcmd, p.polpermissive, p.polroles::regrole[],
         pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
from relations as r
join pg_catalog.pg_policy as p on p.polrelid = r.oid
union all
select 'function', p.oid::regprocedure::text,
       concat_ws(' ', p.proowner::regrole, pg_catalog.pg_get_functiondef(p.oid),
         (select string_agg(x::text, ' ' order by x::text) from unnest(p.proacl) as x),
         pg_catalog.obj_description(p.oid, 'pg_proc'))
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n
  on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
where p.prokind <> 'a'
union all
select 'default_privileges',
       concat_ws(' ', d.defaclrole::regrole, nullif(d.defaclnamespace, 0)::regnamespace, d.defaclobjtype),
       (select string_agg(x::text, ' ' order by x::text) from unnest(d.defaclacl) as x)
from pg_catalog.pg_default_acl as d
where pg_catalog.pg_get_userbyid(d.defaclrole) in ('holdfast_owner', 'holdfast_system')
union all
select 'schema', n.nspname,
       concat_ws(' ', n.nspowner::regrole,
         (select string_agg(x::text, ' ' order by x::text) from unnest(n.nspacl) as x),
         pg_catalog.obj_description(n.oid, 'pg_namespace'))
from pg_catalog.pg_namespace as n
where n.nspname in ('app', 'app_private', 'ops', 'tenant');

comment on view app_private.schema_snapshot is
  'Everything that the files of sql/ and the migrations must agree on, as text: columns, constraints, indexes, '
  'functions with their settings, triggers, policies, owners and grants.';
--! EndIncluded app_private/schema_snapshot.sql
