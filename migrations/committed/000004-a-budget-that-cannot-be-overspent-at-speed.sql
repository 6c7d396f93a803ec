--! Previous: sha1:3bf34156393c03fd5872d18429fa0a65cd599f34
--! Hash: sha1:f505f35a061f23e28ceebfe44744700160c74cad
--! Message: a budget that cannot be overspent, at speed

-- A budget that cannot be overspent, at speed.

-- Columns and constraints that tables have gained; the files below say what they mean.
alter table app.tenants
  add column if not exists anchor_day smallint not null default 1,
  add column if not exists presumed_policy text not null default 'hold',
  add column if not exists presumed_after interval,
  add constraint tenants_anchor_day_sane check (anchor_day between 1 and 31),
  add constraint tenants_presumed_policy_known
    check (presumed_policy in ('hold', 'release_after', 'charge_worst_case')),
  add constraint tenants_presumed_after_iff_release check (
    (presumed_policy = 'release_after') = (presumed_after is not null)
    and presumed_after >= interval '1 minute' and presumed_after <= interval '366 days'
    and extract(month from presumed_after) = 0 and extract(year from presumed_after) = 0);

alter table app.llm_prices
  add column if not exists service_tier text not null default 'standard',
  add column if not exists prompt_tokens int8range not null default '[0,)',
  add column if not exists corrected_at timestamptz not null default 'infinity',
  drop constraint llm_prices_unit_known,
  drop constraint llm_prices_usd_per_million_sane,
  drop constraint llm_prices_one_at_a_time,
  add constraint llm_prices_unit_known check (unit in ('input', 'cached_input', 'cache_write_5m', 'cache_write_1h',
    'output', 'reasoning', 'request', 'image', 'tool_call')),
  add constraint llm_prices_usd_per_million_sane
    check (usd_per_million >= 0 and usd_per_million <= case
      when unit in ('request', 'image', 'tool_call') then 1000000000 else 100000 end),
  add constraint llm_prices_service_tier_known check (service_tier in ('standard', 'priority', 'flex', 'batch')),
  add constraint llm_prices_prompt_tokens_sane check (not isempty(prompt_tokens) and lower(prompt_tokens) >= 0),
  add constraint llm_prices_corrected_later check (corrected_at > known_at),
  add constraint llm_prices_one_at_a_time exclude using gist (
    provider with =, model with =, service_tier with =, unit with =, prompt_tokens with &&, valid with &&,
    tstzrange(known_at, corrected_at) with &&);

alter table app.llm_budgets
  alter column limit_nanousd drop not null,
  add column if not exists unlimited boolean not null default false,
  add column if not exists unit text not null default 'usd',
  drop constraint llm_budgets_once,
  drop constraint llm_budgets_scope_known,
  drop constraint llm_budgets_scope_id_iff_not_tenant,
  add constraint llm_budgets_once unique (tenant_id, scope, scope_id, unit, period),
  add constraint llm_budgets_scope_known check (scope in ('tenant', 'api_key', 'user', 'model', 'tag')),
  add constraint llm_budgets_scope_id_iff_not_tenant
    check ((scope = 'tenant') = (scope_id = '') and length(scope_id) <= 200),
  add constraint llm_budgets_limit_iff_limited check (unlimited = (limit_nanousd is null)),
  add constraint llm_budgets_unit_known check (unit in ('usd'));

call app_private.force_off('app.llm_reservations');
alter table app.llm_reservations
  add column if not exists settled_nanousd bigint not null default 0,
  add column if not exists used jsonb,
  add column if not exists presumed_at timestamptz,
  add column if not exists service_tier text not null default 'standard',
  add column if not exists images integer not null default 0,
  add column if not exists tool_calls integer not null default 0,
  add column if not exists api_key text,
  add column if not exists user_id text,
  add column if not exists tags text[] not null default '{}';
-- In small steps it would take no less: these are the open and settled holds of a first version.
update app.llm_reservations set settled_nanousd = cost_nanousd where status = 'APPLIED';
update app.llm_reservations set presumed_at = expires_at where status in ('PRESUMED', 'WRITTEN_OFF');
call app_private.force_on('app.llm_reservations');
alter table app.llm_reservations
  add constraint llm_reservations_applied_is_settled check (status <> 'APPLIED' or cost_nanousd = settled_nanousd),
  add constraint llm_reservations_released_cost_nothing check (status <> 'RELEASED' or settled_nanousd = 0),
  add constraint llm_reservations_presumed_at_known check (status <> 'PRESUMED' or presumed_at is not null),
  add constraint llm_reservations_settled_not_negative
    check (settled_nanousd >= 0 and images >= 0 and tool_calls >= 0),
  add constraint llm_reservations_names_bounded
    check (length(api_key) <= 200 and length(user_id) <= 200 and cardinality(tags) <= 20);

alter table app.llm_usage
  add column if not exists cache_write_5m_tokens bigint not null default 0,
  add column if not exists cache_write_1h_tokens bigint not null default 0,
  add column if not exists reasoning_tokens bigint not null default 0,
  add column if not exists images integer not null default 0,
  add column if not exists tool_calls integer not null default 0,
  add column if not exists source text not null default 'provider',
  drop constraint llm_usage_status_known,
  drop constraint llm_usage_amounts_not_negative,
  add constraint llm_usage_status_known check (status in ('PARTIAL', 'SETTLED', 'ADJUSTED')),
  add constraint llm_usage_amounts_not_negative check (
    input_tokens >= 0 and output_tokens >= 0 and cost_nanousd >= 0 and over_hold_nanousd >= 0
    and cached_input_tokens >= 0 and cache_write_5m_tokens >= 0 and cache_write_1h_tokens >= 0
    and cached_input_tokens + cache_write_5m_tokens + cache_write_1h_tokens <= input_tokens
    and reasoning_tokens between 0 and output_tokens and images >= 0 and tool_calls >= 0),
  add constraint llm_usage_source_known check (source in ('provider', 'estimated'));

-- One road for one call and for many; the counters follow the holds by a trigger.
drop function app.llm_reserve(uuid, text, text, text, text, bigint, bigint, uuid, integer, interval);
drop function app.llm_settle(uuid, text, uuid, bigint, bigint, bigint, text, text, text, boolean);
drop function app.budget_status(uuid, text);
drop function app_private.llm_headroom(uuid, timestamptz);
drop function app_private.period_bounds(text, text, timestamptz);
drop function app_private.llm_price_of(text, text, timestamptz);
drop function app_private.llm_cost_nanousd(bigint, bigint, bigint, numeric, numeric, numeric);
drop function app_private.llm_budget_periods_open(uuid, timestamptz);
drop function app_private.llm_refuse(uuid, timestamptz, numeric, numeric, numeric);
drop function app_private.llm_headroom_check(uuid, text, text, bigint, bigint);
drop function app_private.llm_reservation_replay(uuid, text, text);
drop function app_private.llm_admit(uuid, uuid, bigint, timestamptz);
drop function app_private.llm_move(uuid, uuid, text, bigint, text, bigint);
drop function app_private.llm_request_check(text, bigint, bigint, integer, interval);
drop function app_private.llm_usage_check(bigint, bigint, bigint);

drop function ops.budget_set(text, numeric, text, text, boolean, bigint);
drop view ops.budgets;
drop view ops.tenants;
drop function ops.tenant_set(text, text, text, text, boolean, text, boolean);
drop function app.llm_release(uuid, text, uuid, text);
drop function app.llm_presume(uuid, text, uuid, text);
drop function ops.llm_price_set(text, text, numeric, numeric, text, numeric, boolean);

drop function app_private.llm_reservation_lock(uuid, uuid);
drop function app_private.llm_end(uuid, uuid, text, text);

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
  ('LB301', 'budget_busy',            503, 'The budget was locked by others for too long. Try again.'),
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
  anchor_day smallint    not null default 1,
  presumed_policy text   not null default 'hold',
  presumed_after interval,

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
  constraint tenants_anchor_day_sane check (anchor_day between 1 and 31),
  constraint tenants_presumed_policy_known
    check (presumed_policy in ('hold', 'release_after', 'charge_worst_case')),
  constraint tenants_presumed_after_iff_release check (
    (presumed_policy = 'release_after') = (presumed_after is not null)
    and presumed_after >= interval '1 minute' and presumed_after <= interval '366 days'
    and extract(month from presumed_after) = 0 and extract(year from presumed_after) = 0),
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

comment on column app.tenants.anchor_day is
  'Day of the month on which months of the budget begin; the last day of a month that is shorter.';
comment on column app.tenants.presumed_policy is
  'What becomes of a PRESUMED hold: hold (it counts until a person or the provider tells), release_after (it is written off '
  'after presumed_after), charge_worst_case (it is charged whole when its period ends).';
comment on column app.tenants.presumed_after is 'How long a PRESUMED hold counts under release_after.';

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
  if exists (
    select from app.tenants as t
    where t.tenant_id = tenant_active.tenant_id and t.last_active_at >= pg_catalog.now() - interval '1 hour')
  then
    return;
  end if;
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
--! Included app/llm_prices.sql
create table if not exists app.llm_prices (
  id              uuid        not null default app_private.uuid_v7(),
  provider        text        not null,
  model           text        not null,
  unit            text        not null,
  usd_per_million numeric     not null,
  valid           tstzrange   not null,
  simulated       boolean     not null default false,
  source          text        not null,
  known_at        timestamptz not null default now(),
  service_tier    text        not null default 'standard',
  prompt_tokens   int8range   not null default '[0,)',
  corrected_at    timestamptz not null default 'infinity',

  constraint llm_prices_pkey primary key (id),
  constraint llm_prices_unit_known check (unit in (
    'input', 'cached_input', 'cache_write_5m', 'cache_write_1h', 'output', 'reasoning', 'request', 'image', 'tool_call')),
  constraint llm_prices_usd_per_million_sane
    check (usd_per_million >= 0 and usd_per_million <= case
      when unit in ('request', 'image', 'tool_call') then 1000000000 else 100000 end),
  constraint llm_prices_valid_not_empty check (not isempty(valid)),
  constraint llm_prices_service_tier_known check (service_tier in ('standard', 'priority', 'flex', 'batch')),
  constraint llm_prices_prompt_tokens_sane check (not isempty(prompt_tokens) and lower(prompt_tokens) >= 0),
  constraint llm_prices_corrected_later check (corrected_at > known_at),
  constraint llm_prices_one_at_a_time exclude using gist (
    provider with =, model with =, service_tier with =, unit with =, prompt_tokens with &&, valid with &&,
    tstzrange(known_at, corrected_at) with &&)
);

create index if not exists llm_prices_model_idx on app.llm_prices (provider, model, service_tier);

comment on table app.llm_prices is
  'What a million tokens of a model cost, in two times: from when to when it applied (valid), and from when to when we '
  'believed it (known_at, corrected_at). A model without a price is refused, never free.';
comment on column app.llm_prices.id is 'The version that a reservation pins.';
comment on column app.llm_prices.provider is 'Who bills: offline, or the host of LLM_BASE_URL.';
comment on column app.llm_prices.model is 'The model as it is asked for.';
comment on column app.llm_prices.unit is
  'What is counted: input, cached_input (read from a cache), cache_write_5m and cache_write_1h (written to one, by how '
  'long it lasts), output, reasoning (part of the output), request, image, tool_call.';
comment on column app.llm_prices.usd_per_million is
  'US dollars per million of the unit: 2500 is a quarter of a cent for each request.';
comment on column app.llm_prices.valid is 'When the price applies.';
comment on column app.llm_prices.simulated is 'True where nobody is billed: the offline analyst.';
comment on column app.llm_prices.source is 'Where the price was read, or who set it.';
comment on column app.llm_prices.known_at is 'When we learned of it.';
comment on column app.llm_prices.service_tier is 'standard, priority, flex or batch: what the request asks the provider for.';
comment on column app.llm_prices.prompt_tokens is
  'For prompts of how many tokens: a longer prompt is priced whole at the rate of its range.';
comment on column app.llm_prices.corrected_at is
  'When we learned that it was wrong; infinity while we believe it. What was held with it is settled with it.';

-- The offline analyst costs nothing; its price is that of a small model, so that budgets can be seen at work.
insert into app.llm_prices (id, provider, model, unit, usd_per_million, valid, simulated, source)
select p.id, 'offline', 'offline-analyst', p.unit, p.usd_per_million,
       tstzrange('2026-01-01 00:00+00', null), true, 'simulated'
from (values
  ('00000000-0000-7000-8000-000000000001'::uuid, 'input',        0.15),
  ('00000000-0000-7000-8000-000000000002'::uuid, 'cached_input', 0.075),
  ('00000000-0000-7000-8000-000000000003'::uuid, 'output',       0.60)
) as p (id, unit, usd_per_million)
where not exists (
  select from app.llm_prices as x
  where x.provider = 'offline' and x.model = 'offline-analyst' and x.unit = p.unit);

grant select on app.llm_prices to holdfast_tenant;
grant select, insert, update on app.llm_prices to holdfast_system;
--! EndIncluded app/llm_prices.sql
--! Included app/llm_price_overrides.sql
create table if not exists app.llm_price_overrides (
  tenant_id       uuid        not null,
  id              uuid        not null default app_private.uuid_v7(),
  provider        text        not null,
  model           text        not null default '',
  unit            text        not null default '',
  usd_per_million numeric,
  factor          numeric,
  valid           tstzrange   not null,
  created_at      timestamptz not null default now(),

  constraint llm_price_overrides_pkey primary key (tenant_id, id),
  constraint llm_price_overrides_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint llm_price_overrides_unit_known check (unit in ('', 'input', 'cached_input', 'cache_write_5m',
    'cache_write_1h', 'output', 'reasoning', 'request', 'image', 'tool_call')),
  constraint llm_price_overrides_price_or_factor check ((usd_per_million is null) <> (factor is null)),
  constraint llm_price_overrides_price_of_a_unit
    check (usd_per_million is null or (model <> '' and unit <> '')),
  constraint llm_price_overrides_price_sane
    check (usd_per_million >= 0 and usd_per_million <= case
      when unit in ('request', 'image', 'tool_call') then 1000000000 else 100000 end),
  constraint llm_price_overrides_factor_sane check (factor >= 0 and factor <= 10),
  constraint llm_price_overrides_valid_not_empty check (not isempty(valid)),
  constraint llm_price_overrides_one_at_a_time
    exclude using gist (tenant_id with =, provider with =, model with =, unit with =, valid with &&)
);

comment on table app.llm_price_overrides is
  'What a tenant pays instead of app.llm_prices: a price of its own, or a factor (0.9 is a tenth off). The one that names '
  'the model goes before the one that names only the provider, and then the one that names the unit.';
comment on column app.llm_price_overrides.tenant_id is 'Who pays it.';
comment on column app.llm_price_overrides.id is 'The override that a reservation pins.';
comment on column app.llm_price_overrides.provider is 'Who bills.';
comment on column app.llm_price_overrides.model is 'The model; empty: every model of the provider.';
comment on column app.llm_price_overrides.unit is 'As in app.llm_prices; empty: every unit.';
comment on column app.llm_price_overrides.usd_per_million is 'US dollars per million of the unit, instead of the price.';
comment on column app.llm_price_overrides.factor is 'What the price is multiplied by.';
comment on column app.llm_price_overrides.valid is 'When it applies.';
comment on column app.llm_price_overrides.created_at is 'When it was made.';

call app_private.isolate('app.llm_price_overrides', for_system => true);
call app_private.fence('app.llm_price_overrides');
grant select, insert, update on app.llm_price_overrides to holdfast_system;
--! EndIncluded app/llm_price_overrides.sql
--! Included app/llm_budgets.sql
create table if not exists app.llm_budgets (
  tenant_id     uuid        not null,
  id            uuid        not null default app_private.uuid_v7(),
  scope         text        not null default 'tenant',
  scope_id      text        not null default '',
  period        text        not null default 'month',
  limit_nanousd bigint,
  hard          boolean     not null default true,
  version       bigint      not null default 1,
  created_at    timestamptz not null default now(),
  updated_at    timestamptz not null default now(),
  unlimited     boolean     not null default false,
  unit          text        not null default 'usd',

  constraint llm_budgets_pkey primary key (tenant_id, id),
  constraint llm_budgets_once unique (tenant_id, scope, scope_id, unit, period),
  constraint llm_budgets_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint llm_budgets_scope_known check (scope in ('tenant', 'api_key', 'user', 'model', 'tag')),
  constraint llm_budgets_scope_id_iff_not_tenant
    check ((scope = 'tenant') = (scope_id = '') and length(scope_id) <= 200),
  constraint llm_budgets_period_known check (period in ('day', 'week', 'month', 'total')),
  constraint llm_budgets_limit_not_negative check (limit_nanousd >= 0),
  constraint llm_budgets_limit_iff_limited check (unlimited = (limit_nanousd is null)),
  constraint llm_budgets_unit_known check (unit in ('usd')),
  constraint llm_budgets_hard_for_now check (hard)
);

comment on table app.llm_budgets is
  'How much a tenant may spend on LLM calls per period. No row: every call is refused. 0: '
  'every call is refused, free ones too.';
comment on column app.llm_budgets.tenant_id is 'Whose budget it is.';
comment on column app.llm_budgets.id is 'The budget.';
comment on column app.llm_budgets.scope is
  'What it limits: the whole tenant, or the calls of one api_key, user, model or tag.';
comment on column app.llm_budgets.scope_id is 'Which one of that scope; empty for the tenant. A model is provider/model.';
comment on column app.llm_budgets.period is 'day, week, month (in the time zone of the tenant) or total.';
comment on column app.llm_budgets.limit_nanousd is
  'The limit per period, in nano-USD (10^-9 US dollars); null where it is unlimited.';
comment on column app.llm_budgets.hard is 'A hard budget refuses; there is no other kind yet.';
comment on column app.llm_budgets.version is 'Rises by one with each change by a person.';
comment on column app.llm_budgets.created_at is 'When it was made.';
comment on column app.llm_budgets.updated_at is 'When a person last changed it.';

comment on column app.llm_budgets.unlimited is 'Calls are counted and never refused: said by a person, with a reason.';
comment on column app.llm_budgets.unit is 'What is counted: usd.';

call app_private.isolate('app.llm_budgets', for_system => true);
call app_private.fence('app.llm_budgets');
grant select, insert, update on app.llm_budgets to holdfast_system;
--! EndIncluded app/llm_budgets.sql
--! Included app/llm_reservations.sql
create table if not exists app.llm_reservations (
  tenant_id              uuid        not null,
  id                     uuid        not null default app_private.uuid_v7(),
  status                 text        not null default 'RESERVED',
  provider               text        not null,
  model                  text        not null,
  run_id                 uuid,
  attempt                integer     not null default 1,
  input_tokens_bound     bigint      not null,
  max_output_tokens      bigint      not null,
  estimated_cost_nanousd bigint      not null,
  cost_nanousd           bigint,
  price_ids              uuid[]      not null,
  reason                 text,
  created_at             timestamptz not null default now(),
  expires_at             timestamptz not null,
  closed_at              timestamptz,
  settled_nanousd        bigint      not null default 0,
  used                   jsonb,
  presumed_at            timestamptz,
  service_tier           text        not null default 'standard',
  images                 integer     not null default 0,
  tool_calls             integer     not null default 0,
  api_key                text,
  user_id                text,
  tags                   text[]      not null default '{}',

  constraint llm_reservations_pkey primary key (tenant_id, id),
  constraint llm_reservations_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint llm_reservations_status_known
    check (status in ('RESERVED', 'APPLIED', 'RELEASED', 'PRESUMED', 'WRITTEN_OFF')),
  constraint llm_reservations_closed_at_iff_closed
    check ((status in ('APPLIED', 'RELEASED', 'WRITTEN_OFF')) = (closed_at is not null)),
  constraint llm_reservations_applied_is_settled
    check (status <> 'APPLIED' or cost_nanousd = settled_nanousd),
  constraint llm_reservations_released_cost_nothing check (status <> 'RELEASED' or settled_nanousd = 0),
  constraint llm_reservations_presumed_at_known check (status <> 'PRESUMED' or presumed_at is not null),
  constraint llm_reservations_settled_not_negative
    check (settled_nanousd >= 0 and images >= 0 and tool_calls >= 0),
  constraint llm_reservations_names_bounded
    check (length(api_key) <= 200 and length(user_id) <= 200 and cardinality(tags) <= 20),
  constraint llm_reservations_cost_iff_applied check ((status = 'APPLIED') = (cost_nanousd is not null)),
  constraint llm_reservations_amounts_not_negative check (
    estimated_cost_nanousd >= 0 and cost_nanousd >= 0 and input_tokens_bound >= 0 and max_output_tokens >= 0)
) partition by range (id);

create index if not exists llm_reservations_expires_at_idx
  on app.llm_reservations (expires_at) where status = 'RESERVED';
create index if not exists llm_reservations_presumed_at_idx
  on app.llm_reservations (tenant_id, presumed_at) where status = 'PRESUMED';
create index if not exists llm_reservations_run_id_idx on app.llm_reservations (tenant_id, run_id);

comment on table app.llm_reservations is
  'Money held before a model call, and how the hold ended. One row per call to a provider; never deleted.';
comment on column app.llm_reservations.tenant_id is 'Whose money it is.';
comment on column app.llm_reservations.id is 'The reservation.';
comment on column app.llm_reservations.status is
  'RESERVED, then APPLIED (settled), RELEASED (proven not billed) or PRESUMED (unknown, still counts), '
  'which ends APPLIED or WRITTEN_OFF.';
comment on column app.llm_reservations.provider is 'Who bills.';
comment on column app.llm_reservations.model is 'The model that is asked for.';
comment on column app.llm_reservations.run_id is 'The run that makes the call; null for a call of a client.';
comment on column app.llm_reservations.attempt is 'Which attempt of the run.';
comment on column app.llm_reservations.input_tokens_bound is 'No tokenizer can count more input tokens than this.';
comment on column app.llm_reservations.max_output_tokens is 'What the request allows the model to write.';
comment on column app.llm_reservations.estimated_cost_nanousd is
  'The hold: the most that the call can cost, in nano-USD.';
comment on column app.llm_reservations.cost_nanousd is 'What the call did cost, in nano-USD; null unless APPLIED.';
comment on column app.llm_reservations.price_ids is
  'The price versions it was computed with; settlement uses the same.';
comment on column app.llm_reservations.reason is 'Why it was released or presumed.';
comment on column app.llm_reservations.created_at is 'When it was made.';
comment on column app.llm_reservations.expires_at is 'When an unanswered hold becomes PRESUMED.';
comment on column app.llm_reservations.closed_at is 'When it ended; null while it is RESERVED or PRESUMED.';

comment on column app.llm_reservations.settled_nanousd is
  'What of it is spent by now, in nano-USD: a stream settles as it goes. The rest of the hold still counts.';
comment on column app.llm_reservations.used is
  'What a stream had used when it last settled, by kind; null for a call that has not settled in parts.';
comment on column app.llm_reservations.presumed_at is 'When its outcome became unknown; kept when it is settled later.';
comment on column app.llm_reservations.service_tier is 'What the request asks the provider for; see app.llm_prices.';
comment on column app.llm_reservations.images is 'How many images the request has.';
comment on column app.llm_reservations.tool_calls is 'How many calls of paid tools the request allows.';
comment on column app.llm_reservations.api_key is 'Which key of the tenant asked; null where none did.';
comment on column app.llm_reservations.user_id is 'For which user of the tenant.';
comment on column app.llm_reservations.tags is 'What else it counts under.';

call app_private.isolate('app.llm_reservations', for_system => true);
call app_private.fence('app.llm_reservations');
grant select, update on app.llm_reservations to holdfast_system;
--! EndIncluded app/llm_reservations.sql
--! Included app/llm_reservation_keys.sql
create table if not exists app.llm_reservation_keys (
  tenant_id       uuid        not null,
  idempotency_key text        not null,
  fingerprint     text        not null,
  reservation_id  uuid        not null,
  created_at      timestamptz not null default now(),

  constraint llm_reservation_keys_pkey primary key (tenant_id, idempotency_key),
  constraint llm_reservation_keys_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint llm_reservation_keys_key_length check (length(idempotency_key) between 1 and 255)
);

create index if not exists llm_reservation_keys_created_at_idx
  on app.llm_reservation_keys using brin (created_at);

comment on table app.llm_reservation_keys is
  'Which reservation an idempotency key made. Apart from the reservations, '
  'whose unique keys must hold their partition key.';
comment on column app.llm_reservation_keys.tenant_id is 'Whose key it is; another tenant may use the same.';
comment on column app.llm_reservation_keys.idempotency_key is 'What the caller named its request.';
comment on column app.llm_reservation_keys.fingerprint is
  'Digest of the request: the same key with another request is refused.';
comment on column app.llm_reservation_keys.reservation_id is 'The reservation that was made.';
comment on column app.llm_reservation_keys.created_at is 'When it was first used.';

call app_private.isolate('app.llm_reservation_keys', for_system => true);
grant select, update, delete on app.llm_reservation_keys to holdfast_system;
--! EndIncluded app/llm_reservation_keys.sql
--! Included app/llm_usage.sql
create table if not exists app.llm_usage (
  tenant_id           uuid        not null,
  id                  uuid        not null default app_private.uuid_v7(),
  reservation_id      uuid        not null,
  run_id              uuid,
  provider            text        not null,
  model               text        not null,
  response_model      text,
  status              text        not null default 'SETTLED',
  input_tokens        bigint      not null,
  cached_input_tokens bigint      not null default 0,
  output_tokens       bigint      not null,
  cost_nanousd        bigint      not null,
  over_hold_nanousd   bigint      not null default 0,
  provider_request_id text,
  finish_reason       text,
  simulated           boolean     not null default false,
  created_at          timestamptz not null default now(),
  cache_write_5m_tokens bigint    not null default 0,
  cache_write_1h_tokens bigint    not null default 0,
  reasoning_tokens    bigint      not null default 0,
  images              integer     not null default 0,
  tool_calls          integer     not null default 0,
  source              text        not null default 'provider',

  constraint llm_usage_pkey primary key (tenant_id, id),
  constraint llm_usage_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint llm_usage_status_known check (status in ('PARTIAL', 'SETTLED', 'ADJUSTED')),
  constraint llm_usage_amounts_not_negative check (
    input_tokens >= 0 and output_tokens >= 0 and cost_nanousd >= 0 and over_hold_nanousd >= 0
    and cached_input_tokens >= 0 and cache_write_5m_tokens >= 0 and cache_write_1h_tokens >= 0
    and cached_input_tokens + cache_write_5m_tokens + cache_write_1h_tokens <= input_tokens
    and reasoning_tokens between 0 and output_tokens and images >= 0 and tool_calls >= 0),
  constraint llm_usage_source_known check (source in ('provider', 'estimated'))
) partition by range (id);

create index if not exists llm_usage_reservation_id_idx on app.llm_usage (tenant_id, reservation_id);

comment on table app.llm_usage is
  'One row per settled call: what it used, by kind, and what that cost. Append only.';
comment on column app.llm_usage.tenant_id is 'Who pays.';
comment on column app.llm_usage.id is 'The row; UUIDv7, so also its moment.';
comment on column app.llm_usage.reservation_id is 'The hold that it settled.';
comment on column app.llm_usage.run_id is 'The run that made the call; null for a call of a client.';
comment on column app.llm_usage.provider is 'Who bills.';
comment on column app.llm_usage.model is 'The model that was asked for.';
comment on column app.llm_usage.response_model is 'The model that says it answered.';
comment on column app.llm_usage.status is
  'SETTLED; PARTIAL: what a stream had used when its hold was written off; ADJUSTED: what came to light '
  'when the hold had ended. Its tokens are those of the whole call once more, its cost is the difference.';
comment on column app.llm_usage.input_tokens is 'All input tokens, cached ones among them.';
comment on column app.llm_usage.cached_input_tokens is 'Input tokens that were read from the provider''s cache.';
comment on column app.llm_usage.output_tokens is 'Output tokens, reasoning among them.';
comment on column app.llm_usage.cost_nanousd is 'What the call cost, in nano-USD, rounded up once.';
comment on column app.llm_usage.over_hold_nanousd is
  'How much more than its hold it cost, in nano-USD; 0 where the bound held.';
comment on column app.llm_usage.provider_request_id is 'How the provider names the call.';
comment on column app.llm_usage.finish_reason is 'Why the model stopped.';
comment on column app.llm_usage.simulated is 'True where nobody is billed.';
comment on column app.llm_usage.created_at is 'When it was settled.';

comment on column app.llm_usage.cache_write_5m_tokens is 'Input tokens written to a cache of 5 minutes.';
comment on column app.llm_usage.cache_write_1h_tokens is 'Input tokens written to a cache of an hour.';
comment on column app.llm_usage.reasoning_tokens is 'Output tokens that are reasoning.';
comment on column app.llm_usage.images is 'Images that were billed.';
comment on column app.llm_usage.tool_calls is 'Calls of paid tools that were billed.';
comment on column app.llm_usage.source is 'provider, or estimated: counted here, upward, for the provider said nothing.';

call app_private.isolate('app.llm_usage', for_system => true);
call app_private.fence('app.llm_usage');
grant select, insert on app.llm_usage to holdfast_system;
--! EndIncluded app/llm_usage.sql
--! Included app_private/llm_rest.sql
create or replace function app_private.llm_rest(held app.llm_reservations, counted_as text) returns bigint
language sql
immutable
parallel safe
return case when (held).status = counted_as
  then greatest(0, (held).estimated_cost_nanousd - (held).settled_nanousd) else 0 end;

comment on function app_private.llm_rest is
  'What of a hold still counts as RESERVED or PRESUMED, in nano-USD: what of it was not settled yet.';

grant execute on function app_private.llm_rest to holdfast_system;
--! EndIncluded app_private/llm_rest.sql
--! Included app_private/tg_llm_reservations__moved.sql
create or replace function app_private.tg_llm_reservations__moved() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  -- In the order of app_private.llm_asks_periods, so that nothing that holds several budgets can deadlock.
  with counted as (
    select n.tenant_id, n.id, app_private.llm_rest(n, 'RESERVED') as reserved,
           app_private.llm_rest(n, 'PRESUMED') as presumed, n.settled_nanousd as spent
    from new_rows as n
    union all
    select o.tenant_id, o.id, - app_private.llm_rest(o, 'RESERVED'), - app_private.llm_rest(o, 'PRESUMED'),
           - o.settled_nanousd
    from old_rows as o
  ),
  changed as materialized (
    select c.tenant_id, c.id, sum(c.reserved) as reserved, sum(c.presumed) as presumed, sum(c.spent) as spent
    from counted as c
    group by c.tenant_id, c.id
    having (sum(c.reserved), sum(c.presumed), sum(c.spent)) <> (0, 0, 0)
  ),
  moves as (
    select h.tenant_id, h.budget_id, h.period_start,
           sum(c.reserved) as reserved, sum(c.presumed) as presumed, sum(c.spent) as spent
    from changed as c
    join app.llm_reservation_budgets as h on h.tenant_id = c.tenant_id and h.reservation_id = c.id
    group by h.tenant_id, h.budget_id, h.period_start
  ),
  locked as (
    select p.tenant_id, p.budget_id, p.period_start, m.reserved, m.presumed, m.spent
    from moves as m
    join app.llm_budgets as b on b.tenant_id = m.tenant_id and b.id = m.budget_id
    join app.llm_budget_periods as p
      on p.tenant_id = m.tenant_id and p.budget_id = m.budget_id and p.period_start = m.period_start
    order by p.tenant_id, b.scope = 'tenant', p.budget_id, p.period_start
    for no key update of p
  )
  update app.llm_budget_periods as p
  set reserved_nanousd = p.reserved_nanousd + l.reserved,
      presumed_nanousd = p.presumed_nanousd + l.presumed,
      spent_nanousd = p.spent_nanousd + l.spent
  from locked as l
  where p.tenant_id = l.tenant_id and p.budget_id = l.budget_id and p.period_start = l.period_start;
  return null;
end
$$;

comment on function app_private.tg_llm_reservations__moved is
  'Moves what a hold counts as, whoever changes it: out of reserved or presumed, into presumed or spent, in each budget and '
  'in the period in which it was reserved, also when that period is over.';

create or replace trigger _200_moved
  after update on app.llm_reservations
  referencing old table as old_rows new table as new_rows
  for each statement execute function app_private.tg_llm_reservations__moved();
--! EndIncluded app_private/tg_llm_reservations__moved.sql
--! Included app_private/month_anchor.sql
create or replace function app_private.month_anchor(local_at timestamp, anchor_day smallint) returns timestamp
language sql
immutable
parallel safe
return pg_catalog.date_trunc('month', local_at) + pg_catalog.make_interval(days => least(anchor_day::integer,
  extract(day from pg_catalog.date_trunc('month', local_at) + interval '1 month -1 day')::integer) - 1);

comment on function app_private.month_anchor is
  'Midnight of the anchor day in the month of a local time; its last day where the month is shorter.';

grant execute on function app_private.month_anchor to holdfast_system;
--! EndIncluded app_private/month_anchor.sql
--! Included app_private/period_begin.sql
create or replace function app_private.period_begin(period text, local_at timestamp, anchor_day smallint)
returns timestamp
language sql
immutable
parallel safe
return case
  when period <> 'month' then pg_catalog.date_trunc(period, local_at)
  when local_at >= app_private.month_anchor(local_at, anchor_day)
    then app_private.month_anchor(local_at, anchor_day)
  else app_private.month_anchor(
    local_at - pg_catalog.make_interval(days => extract(day from local_at)::integer), anchor_day)
end;

comment on function app_private.period_begin is
  'When the day, week or month around a local time began, in local time.';

grant execute on function app_private.period_begin to holdfast_system;
--! EndIncluded app_private/period_begin.sql
--! Included app_private/period_bounds.sql
create or replace function app_private.period_bounds(
  period text, time_zone text, at timestamptz, anchor_day smallint default 1)
returns table (period_start timestamptz, period_end timestamptz)
language plpgsql
stable
set search_path = ''
as $$
declare
  v_local timestamp := at at time zone time_zone;
  v_begin timestamp;
begin
  if period = 'total' then
    return query select '-infinity'::timestamptz, 'infinity'::timestamptz;
    return;
  end if;

  v_begin := app_private.period_begin(period, v_local, anchor_day);
  -- Where clocks go back over midnight, that midnight comes twice and Postgres reads the second one: in the hour between
  -- them the period of the day before still runs.
  if v_begin at time zone time_zone > at then
    v_begin := app_private.period_begin(period, v_begin - interval '1 microsecond', anchor_day);
  end if;
  return query
  select v_begin at time zone time_zone,
         app_private.period_begin(period, v_begin + case period
             when 'day' then interval '1 day' when 'week' then interval '7 days' else interval '32 days' end,
           anchor_day) at time zone time_zone;
end
$$;

comment on function app_private.period_bounds is
  'First moment of the day, week or month around a moment in a time zone, and the first moment after it; total is endless. '
  'Months begin on the anchor day, or on the last day of a month that is shorter: 31 January, 28 February, 31 March.';

grant execute on function app_private.period_bounds to holdfast_system;
--! EndIncluded app_private/period_bounds.sql
--! Included app_private/usd.sql
create or replace function app_private.usd(nanousd numeric) returns numeric
language sql
immutable
parallel safe
return trim_scale(nanousd * 0.000000001);  -- a quotient is rounded, a product is not

comment on function app_private.usd is 'Nano-USD as US dollars, exactly.';

grant execute on function app_private.usd to holdfast_system;
--! EndIncluded app_private/usd.sql
--! Included app_private/whole.sql
create or replace function app_private.whole(count numeric) returns bigint
language sql
immutable
parallel safe
return case when count < 0 then -1 when count is not null
  then pg_catalog.ceil(least(count, 1000000000)) end::bigint;

comment on function app_private.whole is
  'A count that came as a number of any size: a fraction is rounded up, and what is out of every range stays so.';
--! EndIncluded app_private/whole.sql
--! Included app_private/llm_units.sql
-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.llm_units') is null then
    create type app_private.llm_units as (
      input          bigint,
      cached_input   bigint,
      cache_write_5m bigint,
      cache_write_1h bigint,
      output         bigint,
      reasoning      bigint,
      request        bigint,
      image          bigint,
      tool_call      bigint
    );
  end if;
end
$$;

comment on type app_private.llm_units is
  'What a call used: input has all input tokens, those read from and written to a cache among them; output has all output '
  'tokens, reasoning among them. None is null.';
--! EndIncluded app_private/llm_units.sql
--! Included app_private/llm_rates.sql
-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.llm_rates') is null then
    create type app_private.llm_rates as (
      input          numeric,
      cached_input   numeric,
      cache_write_5m numeric,
      cache_write_1h numeric,
      output         numeric,
      reasoning      numeric,
      request        numeric,
      image          numeric,
      tool_call      numeric
    );
  end if;
end
$$;

comment on type app_private.llm_rates is
  'What a call pays, in US dollars per million of each unit. None is null.';
--! EndIncluded app_private/llm_rates.sql
--! Included app_private/llm_price_ids.sql
create or replace function app_private.llm_price_ids(
  tenant_id uuid, provider text, model text, service_tier text, at timestamptz)
returns table (price_ids uuid[], tiered boolean)
language plpgsql
stable
set search_path = ''
as $$
begin
  select array_agg(p.id order by p.id), bool_or(p.prompt_tokens <> '[0,)'::int8range)
  into price_ids, tiered
  from app.llm_prices as p
  where p.provider = llm_price_ids.provider and p.model = llm_price_ids.model
    and p.service_tier = llm_price_ids.service_tier and p.valid @> at and p.corrected_at = 'infinity';
  if price_ids is not null then
    price_ids := price_ids || array(
      select o.id
      from app.llm_price_overrides as o
      where o.tenant_id = llm_price_ids.tenant_id and o.provider = llm_price_ids.provider
        and o.model in ('', llm_price_ids.model) and o.valid @> at);
  end if;
  return next;
end
$$;

comment on function app_private.llm_price_ids is
  'The versions of prices, and the overrides of a tenant, that apply to a model at a moment; null where none is known. '
  'tiered: they depend on how long the prompt is.';
--! EndIncluded app_private/llm_price_ids.sql
--! Included app_private/llm_rates_of.sql
create or replace function app_private.llm_rates_of(tenant_id uuid, price_ids uuid[], prompt_tokens int8range)
returns app_private.llm_rates
language plpgsql
stable
set search_path = ''
as $$
declare
  v_rates app_private.llm_rates;
begin
  with rates as (
    select p.unit, max(coalesce(o.usd_per_million, p.usd_per_million * coalesce(o.factor, 1))) as rate
    from app.llm_prices as p
    left join lateral (
      select x.usd_per_million, x.factor
      from app.llm_price_overrides as x
      where x.tenant_id = llm_rates_of.tenant_id and x.id = any (price_ids)
        and x.model in ('', p.model) and x.unit in ('', p.unit)
      order by x.model desc, x.unit desc limit 1) as o on true
    where p.id = any (price_ids) and p.prompt_tokens && llm_rates_of.prompt_tokens
    group by p.unit
  ),
  units as (
    select max(r.rate) filter (where r.unit = 'input') as input,
           max(r.rate) filter (where r.unit = 'cached_input') as cached_input,
           max(r.rate) filter (where r.unit = 'cache_write_5m') as cache_write_5m,
           max(r.rate) filter (where r.unit = 'cache_write_1h') as cache_write_1h,
           max(r.rate) filter (where r.unit = 'output') as output,
           max(r.rate) filter (where r.unit = 'reasoning') as reasoning,
           max(r.rate) filter (where r.unit = 'request') as request,
           max(r.rate) filter (where r.unit = 'image') as image,
           max(r.rate) filter (where r.unit = 'tool_call') as tool_call
    from rates as r
  )
  select u.input, coalesce(u.cached_input, u.input), coalesce(u.cache_write_5m, u.input),
         coalesce(u.cache_write_1h, u.cache_write_5m, u.input), u.output, coalesce(u.reasoning, u.output),
         coalesce(u.request, 0), coalesce(u.image, 0), coalesce(u.tool_call, 0)
  into v_rates
  from units as u;
  return v_rates;
end
$$;

comment on function app_private.llm_rates_of is
  'What these versions of prices, and the tenant''s overrides among them, come to for a prompt of so many tokens: where '
  'the range covers several tiers, the dearest of each unit. A kind of input or output without a price of its own costs '
  'what input or output does.';
--! EndIncluded app_private/llm_rates_of.sql
--! Included app_private/llm_rates_for.sql
create or replace function app_private.llm_rates_for(tenant_id uuid, price_ids uuid[], prompt_tokens bigint)
returns app_private.llm_rates
language plpgsql
stable
set search_path = ''
as $$
declare
  v_rates app_private.llm_rates := app_private.llm_rates_of(
    tenant_id, price_ids, int8range(prompt_tokens, prompt_tokens, '[]'));
begin
  if v_rates.input is null or v_rates.output is null then
    return app_private.llm_rates_of(tenant_id, price_ids, int8range(0, null));
  end if;
  return v_rates;
end
$$;

comment on function app_private.llm_rates_for is
  'What these versions of prices come to for a prompt that was that long; where no tier has that length, the dearest of all.';
--! EndIncluded app_private/llm_rates_for.sql
--! Included app_private/llm_tiered.sql
create or replace function app_private.llm_tiered(price_ids uuid[]) returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return exists (
    select from app.llm_prices as p
    where p.id = any (price_ids) and p.prompt_tokens <> '[0,)'::int8range);
end
$$;

comment on function app_private.llm_tiered is 'Whether these prices depend on how long the prompt is.';
--! EndIncluded app_private/llm_tiered.sql
--! Included app_private/llm_cost.sql
create or replace function app_private.llm_cost(used app_private.llm_units, rates app_private.llm_rates)
returns numeric
language plpgsql  -- an expression that names an argument twice is not inlined
immutable
parallel safe
set search_path = ''
as $$
begin
  return pg_catalog.ceil(1000 * (
    ((used).input - (used).cached_input - (used).cache_write_5m - (used).cache_write_1h) * (rates).input
    + (used).cached_input * (rates).cached_input
    + (used).cache_write_5m * (rates).cache_write_5m
    + (used).cache_write_1h * (rates).cache_write_1h
    + ((used).output - (used).reasoning) * (rates).output
    + (used).reasoning * (rates).reasoning
    + (used).request * (rates).request
    + (used).image * (rates).image
    + (used).tool_call * (rates).tool_call));
end
$$;

comment on function app_private.llm_cost is
  'Nano-USD of a call, rounded up once: units x US dollars per million x 10^9 / 10^6.';
--! EndIncluded app_private/llm_cost.sql
--! Included app_private/llm_hint.sql
create or replace function app_private.llm_hint(refusal text, detail jsonb) returns text
language sql
immutable
parallel safe
return case
  when refusal is null then null
  when refusal = 'no_price' then pg_catalog.format('In psql: select * from ops.llm_price_set(%L, %L, '
    'input_usd_per_million => …, output_usd_per_million => …, reason => ''…'');', detail ->> 'provider', detail ->> 'model')
  when refusal = 'idempotency_conflict'
    then 'The key was used with another model or other bounds. Use a new key for a new request.'
  when refusal = 'reservation_invalid' then detail ->> 'fault'
  when refusal = 'reservation_not_found'
    then 'Use the id that llm_reserve answered, for the tenant that reserved it.'
  when refusal = 'reservation_closed' then 'A reservation ends once. What it cost is in app.llm_usage.'
  when refusal = 'job_run_not_found' then 'Use the id of a run of this tenant; ops.jobs lists them.'
  when detail ->> 'reason' = 'no_budget' then
    'The tenant has no budget. In psql: select * from ops.set_limit(tenant => …, limit_usd => …, reason => …);'
  when detail ->> 'reason' = 'zero' then 'A limit of 0 refuses every call. Raise it with ops.set_limit.'
  when detail ->> 'reason' = 'too_large'
    then 'The call alone is more than the limit. Ask for less, or raise the limit with ops.set_limit.'
  when detail ->> 'reason' = 'in_flight'
    then 'Calls that are under way hold the rest. Try again when they have ended.'
  else 'Wait for the next period, ask for less, or raise the limit with ops.set_limit.'
end;

comment on function app_private.llm_hint is 'What a person does about a request that was refused.';
--! EndIncluded app_private/llm_hint.sql
--! Included app_private/llm_raise.sql
create or replace function app_private.llm_raise(refusal text, detail jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_sqlstate constant text := (select e.sqlstate from app.error_codes as e where e.name = refusal);
begin
  raise exception using
    errcode = v_sqlstate,
    message = refusal,
    detail  = coalesce(llm_raise.detail, '{}'),
    hint    = app_private.llm_hint(refusal, llm_raise.detail);
end
$$;

comment on function app_private.llm_raise is
  'Raises what a list of many answers for one: LB101, LB102, LB103, LB104, LB105, LB201, JB101.';
--! EndIncluded app_private/llm_raise.sql
--! Included app_private/llm_busy.sql
create or replace function app_private.llm_busy() returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'LB301',
    message = 'budget_busy',
    hint    =
      'Others keep the budget locked. Try again in a second; ops.doctor() and pg_stat_activity show who.';
end
$$;

comment on function app_private.llm_busy is 'Raises LB301: the budget was locked by others for too long.';
--! EndIncluded app_private/llm_busy.sql
--! Included app_private/llm_settings_set.sql
create or replace function app_private.llm_settings_set(lock_timeout_ms integer) returns void
language plpgsql
set search_path = ''
as $$
begin
  if coalesce(lock_timeout_ms, 0) not between 1 and 60000 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('lock_timeout_ms', lock_timeout_ms),
      hint    = 'The wait for a budget is 1 to 60,000 ms.';
  end if;
  perform pg_catalog.set_config('lock_timeout', lock_timeout_ms || 'ms', true);
  -- Read at the commit, which an answer or a paid call follows; a setting of the function would be gone by then.
  perform pg_catalog.set_config('synchronous_commit', 'on', true);
end
$$;

comment on function app_private.llm_settings_set is
  'Bounds each wait for a lock until the end of the transaction, and has its commit wait for the disk. Raises OP102.';
--! EndIncluded app_private/llm_settings_set.sql
--! Included app_private/llm_ask.sql
-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.llm_ask') is null then
    create type app_private.llm_ask as (
      n                  integer,
      id                 uuid,
      idempotency_key    text,
      fingerprint        text,
      provider           text,
      model              text,
      service_tier       text,
      input_tokens_bound bigint,
      max_output_tokens  bigint,
      min_output_tokens  bigint,
      images             integer,
      tool_calls         integer,
      api_key            text,
      user_id            text,
      tags               text[],
      run_id             uuid,
      attempt            integer,
      ttl                interval,
      price_ids          uuid[],
      fixed_nanousd      numeric,
      output_rate        numeric,
      needed_nanousd     numeric,
      periods            integer[],
      refusal            text,
      detail             jsonb
    );
  end if;
end
$$;

comment on type app_private.llm_ask is
  'A request for a hold, as app.llm_reserve_many works on it: what was asked, its price (fixed_nanousd without any output, '
  'output_rate in US dollars per million), the places of its budgets in the list of periods, and why it is refused.';
--! EndIncluded app_private/llm_ask.sql
--! Included app_private/llm_period.sql
-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.llm_period') is null then
    create type app_private.llm_period as (
      place            integer,
      budget_id        uuid,
      scope            text,
      scope_id         text,
      period           text,
      period_start     timestamptz,
      period_end       timestamptz,
      limit_nanousd    bigint,
      spent_nanousd    bigint,
      reserved_nanousd bigint,
      presumed_nanousd bigint,
      made             boolean
    );
  end if;
end
$$;

comment on type app_private.llm_period is
  'A budget in the period that a call would fall into, in the order in which they are locked: that of the whole tenant, '
  'which all calls share, comes last. The limit is null where it is unlimited; made: '
  'its row of app.llm_budget_periods is there.';
--! EndIncluded app_private/llm_period.sql
--! Included app_private/llm_ask_fault.sql
create or replace function app_private.llm_ask_fault(ask app_private.llm_ask) returns text
language sql
stable  -- as what it calls: else it would not be inlined
parallel safe
return case
  when coalesce(pg_catalog.length((ask).idempotency_key), 0) not between 1 and 255
    then 'idempotency_key has 1 to 255 characters.'
  when pg_catalog.length((ask).provider) > 200 or pg_catalog.length((ask).model) > 200
    then 'provider and model have at most 200 characters.'
  when coalesce((ask).service_tier not in ('standard', 'priority', 'flex', 'batch'), true)
    then 'service_tier is standard, priority, flex or batch.'
  when coalesce((ask).input_tokens_bound, -1) not between 0 and 100000000
    then 'input_tokens_bound is 0 to 100,000,000.'
  when coalesce((ask).max_output_tokens, -1) not between 0 and 100000000
    then 'max_output_tokens is 0 to 100,000,000.'
  when (ask).min_output_tokens not between 1 and (ask).max_output_tokens
    then
      'min_output_tokens is 1 to max_output_tokens, or not there: then the call is refused where it does not fit.'
  when coalesce((ask).images, -1) not between 0 and 10000
    or coalesce((ask).tool_calls, -1) not between 0 and 10000
    then 'images and tool_calls are 0 to 10,000.'
  when pg_catalog.length((ask).api_key) not between 1 and 200
    or pg_catalog.length((ask).user_id) not between 1 and 200
    then 'api_key and user_id have 1 to 200 characters.'
  when pg_catalog.cardinality((ask).tags) > 20 or pg_catalog.array_position((ask).tags, null) is not null
    or pg_catalog.length(pg_catalog.array_to_string((ask).tags, '')) > 2000
    then 'tags are at most 20, of 2000 characters together.'
  when coalesce((ask).attempt, 0) not between 1 and 1000000
    then 'attempt counts from 1.'
  when coalesce((ask).ttl, interval '-1 second') not between interval '0' and interval '1 hour'
    then 'ttl is at most an hour.'
end;

comment on function app_private.llm_ask_fault is 'What is wrong with a request for a hold, in words; null when nothing is.';
--! EndIncluded app_private/llm_ask_fault.sql
--! Included app_private/llm_asks_read.sql
create or replace function app_private.llm_asks_read(asks jsonb) returns app_private.llm_ask[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  v_asks  app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask   app_private.llm_ask;
  v_fault text;
begin
  if pg_catalog.jsonb_typeof(asks) is distinct from 'array'
    or pg_catalog.jsonb_array_length(asks) not between 1 and 1000
  then
    raise exception using
      errcode = 'LB105',
      message = 'reservation_invalid',
      hint    = 'The requests are a JSON array of 1 to 1,000 objects.';
  end if;

  for v_ask in
    select e.n, app_private.uuid_v7(), x.idempotency_key, null::text, x.provider, x.model,
           coalesce(x.service_tier, 'standard'), app_private.whole(x.input_tokens_bound),
           app_private.whole(x.max_output_tokens), app_private.whole(x.min_output_tokens),
           app_private.whole(coalesce(x.images, 0)), app_private.whole(coalesce(x.tool_calls, 0)), x.api_key,
           x.user_id, coalesce(x.tags, '{}'), x.run_id, app_private.whole(coalesce(x.attempt, 1)),
           app_private.whole(coalesce(x.ttl_ms, 120000)) * interval '1 millisecond',
           null::uuid[], null::numeric, null::numeric, null::numeric, null::integer[], null::text, null::jsonb
    from pg_catalog.jsonb_array_elements(asks) with ordinality as e (ask, n)
    cross join lateral pg_catalog.jsonb_to_record(e.ask) as x (
      idempotency_key text, provider text, model text, service_tier text, input_tokens_bound numeric,
      max_output_tokens numeric, min_output_tokens numeric, images numeric, tool_calls numeric, api_key text,
      user_id text, tags text[], run_id uuid, attempt numeric, ttl_ms numeric)
    order by e.n
  loop
    v_ask.fingerprint := pg_catalog.md5(row(
      v_ask.provider, v_ask.model, v_ask.service_tier, v_ask.input_tokens_bound, v_ask.max_output_tokens,
      v_ask.min_output_tokens, v_ask.images, v_ask.tool_calls, v_ask.api_key, v_ask.user_id, v_ask.tags,
      v_ask.run_id, v_ask.attempt)::text);
    v_fault := app_private.llm_ask_fault(v_ask);
    if v_fault is not null then
      v_ask.refusal := 'reservation_invalid';
      v_ask.detail := pg_catalog.jsonb_build_object('fault', v_fault);
    end if;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
exception when data_exception or feature_not_supported then
  return app_private.llm_asks_read_one_by_one(asks);
end
$$;

comment on function app_private.llm_asks_read is
  'Reads requests for holds; one whose numbers cannot be held is refused by itself. The fingerprint is of '
  'what was asked but for its ttl, with what was left out as it is understood. '
  'Raises LB105 for what is no list.';
--! EndIncluded app_private/llm_asks_read.sql
--! Included app_private/llm_asks_read_one_by_one.sql
create or replace function app_private.llm_asks_read_one_by_one(asks jsonb) returns app_private.llm_ask[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  v_asks app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask  app_private.llm_ask;
begin
  for n in 0 .. pg_catalog.jsonb_array_length(asks) - 1 loop
    if pg_catalog.jsonb_array_length(asks) > 1 then
      v_ask := (app_private.llm_asks_read(pg_catalog.jsonb_build_array(asks -> n)))[1];
    else
      v_ask.refusal := 'reservation_invalid';
      v_ask.detail := pg_catalog.jsonb_build_object('fault', 'A field has a value of the wrong type.');
    end if;
    v_ask.n := n + 1;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
end
$$;

comment on function app_private.llm_asks_read_one_by_one is
  'Reads a list in which something is of the wrong type, so that it refuses no other.';
--! EndIncluded app_private/llm_asks_read_one_by_one.sql
--! Included app_private/llm_asks_replayed.sql
create or replace function app_private.llm_asks_replayed(tenant_id uuid, asks app_private.llm_ask[])
returns app_private.llm_ask[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_asks  app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask   app_private.llm_ask;
  v_known jsonb := (
    select pg_catalog.jsonb_object_agg(
             k.idempotency_key, pg_catalog.jsonb_build_array(k.reservation_id, k.fingerprint))
    from app.llm_reservation_keys as k
    where k.tenant_id = llm_asks_replayed.tenant_id
      and k.idempotency_key = any (array(select a.idempotency_key from unnest(asks) as a)));
  v_first jsonb;
begin
  if v_known is null then return asks; end if;
  foreach v_ask in array asks loop
    v_first := v_known -> v_ask.idempotency_key;
    if v_ask.refusal is null and v_first is not null and (v_first ->> 0)::uuid <> v_ask.id then
      v_ask.id := (v_first ->> 0)::uuid;
      v_ask.refusal := case when v_first ->> 1 = v_ask.fingerprint then 'replayed'
                            else 'idempotency_conflict' end;
    end if;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
end
$$;

comment on function app_private.llm_asks_replayed is
  'Marks the requests whose key has made a hold before: replayed, with the id of that hold, or idempotency_conflict where '
  'it was made for another request.';
--! EndIncluded app_private/llm_asks_replayed.sql
--! Included app_private/llm_asks_run.sql
create or replace function app_private.llm_asks_run(tenant_id uuid, asks app_private.llm_ask[])
returns app_private.llm_ask[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_wanted uuid[] := array[]::uuid[];
  v_found  uuid[];
  v_asks   app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask    app_private.llm_ask;
begin
  foreach v_ask in array asks loop
    if v_ask.run_id is not null and v_ask.refusal is null and v_ask.run_id <> all (v_wanted) then
      v_wanted := v_wanted || v_ask.run_id;
    end if;
  end loop;
  if v_wanted = '{}' then return asks; end if;
  v_found := array(
    select r.id from app.job_runs as r where r.tenant_id = llm_asks_run.tenant_id and r.id = any (v_wanted));
  if pg_catalog.cardinality(v_found) = pg_catalog.cardinality(v_wanted) then return asks; end if;
  foreach v_ask in array asks loop
    if v_ask.refusal is null and v_ask.run_id is not null and v_ask.run_id <> all (v_found) then
      v_ask.refusal := 'job_run_not_found';
    end if;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
end
$$;

comment on function app_private.llm_asks_run is 'Refuses the requests that name a run which is no run of the tenant.';
--! EndIncluded app_private/llm_asks_run.sql
--! Included app_private/llm_asks_price.sql
create or replace function app_private.llm_asks_price(
  tenant_id uuid, asks app_private.llm_ask[], at timestamptz)
returns app_private.llm_ask[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_asks  app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask   app_private.llm_ask;
  v_ids   record;
  v_rates app_private.llm_rates;
  v_model text[];
  v_known text[];  -- the model whose prices the variables above hold
  v_bound bigint;
begin
  foreach v_ask in array asks loop
    if v_ask.refusal is null then
      v_model := array[v_ask.provider, v_ask.model, v_ask.service_tier];
      if v_model is distinct from v_known then
        select p.* into v_ids
        from app_private.llm_price_ids(tenant_id, v_ask.provider, v_ask.model, v_ask.service_tier, at) as p;
        v_known := v_model;
        v_bound := null;
      end if;
      if v_bound is null or (v_ids.tiered and v_bound <> v_ask.input_tokens_bound) then
        v_bound := v_ask.input_tokens_bound;
        v_rates := app_private.llm_rates_of(tenant_id, v_ids.price_ids, int8range(0, v_bound, '[]'));
      end if;

      if v_rates.input is null or v_rates.output is null
        or (v_ask.images > 0 and v_rates.image = 0) or (v_ask.tool_calls > 0 and v_rates.tool_call = 0)
      then
        v_ask.refusal := 'no_price';
        v_ask.detail := pg_catalog.jsonb_build_object('reason', 'no_price', 'provider', v_ask.provider,
          'model', v_ask.model, 'service_tier', v_ask.service_tier);
      else
        v_ask.price_ids := v_ids.price_ids;
        v_ask.output_rate := greatest(v_rates.output, v_rates.reasoning);
        v_ask.fixed_nanousd := 1000 * (v_rates.request
          + v_ask.images * v_rates.image + v_ask.tool_calls * v_rates.tool_call
          + v_ask.input_tokens_bound * greatest(
            v_rates.input, v_rates.cached_input, v_rates.cache_write_5m, v_rates.cache_write_1h));
        v_ask.needed_nanousd := pg_catalog.ceil(
          v_ask.fixed_nanousd + 1000 * v_ask.max_output_tokens * v_ask.output_rate);
      end if;
    end if;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
end
$$;

comment on function app_private.llm_asks_price is
  'The most that each request can cost: every input token at the dearest rate that could be applied to it (a cache that is '
  'written or read, a longer prompt''s tier), every output token as the dearer of output and reasoning. In nano-USD, '
  'rounded up once. One whose model has no price is refused.';
--! EndIncluded app_private/llm_asks_price.sql
--! Included app_private/llm_asks_periods.sql
create or replace function app_private.llm_asks_periods(
  tenant_id uuid, asks app_private.llm_ask[], at timestamptz)
returns app_private.llm_period[]
language plpgsql
stable
set search_path = ''
as $$
begin
  return array(
    with scopes as materialized (
      select 'tenant' as scope, '' as scope_id
      union
      select s.scope, s.scope_id
      from unnest(asks) as a
      cross join lateral (
        select 'api_key', a.api_key where a.api_key is not null
        union all select 'user', a.user_id where a.user_id is not null
        union all select 'model', a.provider || '/' || a.model
        union all select 'tag', t.tag from unnest(a.tags) as t (tag)) as s (scope, scope_id)
      where a.refusal is null
    )
    select (row_number() over (order by b.scope = 'tenant', b.id), b.id, b.scope, b.scope_id, b.period,
            e.period_start, e.period_end, b.limit_nanousd, coalesce(p.spent_nanousd, 0),
            coalesce(p.reserved_nanousd, 0), coalesce(p.presumed_nanousd, 0),
            p.budget_id is not null)::app_private.llm_period
    from scopes as s
    join app.llm_budgets as b
      on b.tenant_id = llm_asks_periods.tenant_id and b.scope = s.scope and b.scope_id = s.scope_id
    cross join (
      select t.time_zone, t.anchor_day from app.tenants as t
      where t.tenant_id = llm_asks_periods.tenant_id) as z
    cross join lateral app_private.period_bounds(b.period, z.time_zone, at, z.anchor_day) as e
    left join app.llm_budget_periods as p
      on p.tenant_id = b.tenant_id and p.budget_id = b.id and p.period_start = e.period_start
    order by b.scope = 'tenant', b.id);
end
$$;

comment on function app_private.llm_asks_periods is
  'The budgets that these requests would be held in, in the period of this moment, as they stand: read, not locked.';
--! EndIncluded app_private/llm_asks_periods.sql
--! Included app_private/llm_asks_place.sql
create or replace function app_private.llm_asks_place(
  asks app_private.llm_ask[], periods app_private.llm_period[])
returns app_private.llm_ask[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_asks   app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask    app_private.llm_ask;
  v_common constant integer[] := array(select p.place from unnest(periods) as p where p.scope = 'tenant');
  v_scoped constant boolean := pg_catalog.cardinality(v_common) < pg_catalog.cardinality(periods);
begin
  foreach v_ask in array asks loop
    if v_ask.refusal is null then
      v_ask.periods := v_common;
      if v_scoped then
        v_ask.periods := array(
          select p.place
          from unnest(periods) as p
          where (p.scope = 'api_key' and p.scope_id = v_ask.api_key)
            or (p.scope = 'user' and p.scope_id = v_ask.user_id)
            or (p.scope = 'model' and p.scope_id = v_ask.provider || '/' || v_ask.model)
            or (p.scope = 'tag' and p.scope_id = any (v_ask.tags))) || v_common;
      end if;
      if v_common = '{}' then
        v_ask.refusal := 'budget_exceeded';
        v_ask.detail := pg_catalog.jsonb_build_object('reason', 'no_budget',
          'needed_nanousd', v_ask.needed_nanousd::text, 'max_affordable_output_tokens', 0);
      end if;
    end if;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
end
$$;

comment on function app_private.llm_asks_place is
  'Which of these budgets each request is held in: those of its tenant, and of its key, user, model and tags. A tenant '
  'without a budget for all of it is refused, whatever other budgets it has.';
--! EndIncluded app_private/llm_asks_place.sql
--! Included app_private/llm_refusal.sql
create or replace function app_private.llm_refusal(
  ask app_private.llm_ask, periods app_private.llm_period[], least_nanousd numeric) returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
declare
  v_needed constant numeric := ask.needed_nanousd;
  v_tight  app_private.llm_period;
  v_left   constant numeric := (
    select min(case p.limit_nanousd when 0 then -1
             else p.limit_nanousd - p.spent_nanousd - p.presumed_nanousd - p.reserved_nanousd end)
    from unnest(periods) as p where p.place = any (ask.periods));
begin
  -- The most lasting reason is told: who is told to wait for calls in flight must not wait for ever.
  select p.* into v_tight
  from unnest(periods) as p
  where p.place = any (ask.periods) and p.limit_nanousd is not null
  order by (p.limit_nanousd = 0) desc, (v_needed > p.limit_nanousd) desc,
           (p.spent_nanousd + p.presumed_nanousd + v_needed > p.limit_nanousd) desc,
           p.limit_nanousd - p.spent_nanousd - p.presumed_nanousd - p.reserved_nanousd, p.place
  limit 1;
  return pg_catalog.jsonb_build_object(
    'reason', case
      when v_tight.limit_nanousd = 0 then 'zero'
      when v_needed > v_tight.limit_nanousd then 'too_large'
      when v_tight.spent_nanousd + v_tight.presumed_nanousd + v_needed <= v_tight.limit_nanousd
        then 'in_flight'
      else 'exhausted' end,
    'scope', v_tight.scope, 'scope_id', v_tight.scope_id, 'period', v_tight.period,
    'period_end', v_tight.period_end,
    'limit_nanousd', v_tight.limit_nanousd::text, 'spent_nanousd', v_tight.spent_nanousd::text,
    'reserved_nanousd', v_tight.reserved_nanousd::text, 'presumed_nanousd', v_tight.presumed_nanousd::text,
    'needed_nanousd', v_needed::text,
    'max_affordable_output_tokens', case when ask.output_rate > 0 then greatest(0,
      pg_catalog.floor((least(least_nanousd, v_left) - ask.fixed_nanousd) / (1000 * ask.output_rate)))
      else 0 end);
end
$$;

comment on function app_private.llm_refusal is
  'Which budget a request does not fit, why (zero, too_large, exhausted, or in_flight: it would fit when the calls that are '
  'under way cost nothing), and how many output tokens would fit. least: what the tightest of its budgets has left.';
--! EndIncluded app_private/llm_refusal.sql
--! Included app_private/llm_asks_fit.sql
create or replace function app_private.llm_asks_fit(
  asks app_private.llm_ask[], periods app_private.llm_period[], all_come_back boolean)
returns app_private.llm_ask[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_asks  app_private.llm_ask[] := array[]::app_private.llm_ask[];
  v_ask   app_private.llm_ask;
  v_left  numeric[] := array(
    select case p.limit_nanousd when 0 then -1 else coalesce(p.limit_nanousd, 'infinity'::numeric) end
      - p.spent_nanousd - p.presumed_nanousd - case when all_come_back then 0 else p.reserved_nanousd end
    from unnest(periods) as p order by p.place);
  v_least numeric;
  v_place integer;
begin
  foreach v_ask in array asks loop
    if v_ask.refusal is null then
      v_least := 'infinity';
      foreach v_place in array v_ask.periods loop
        v_least := least(v_least, v_left[v_place]);
      end loop;

      if v_least < v_ask.needed_nanousd and v_ask.min_output_tokens is not null and v_ask.output_rate > 0 then
        v_ask.max_output_tokens := greatest(v_ask.min_output_tokens, least(v_ask.max_output_tokens,
          pg_catalog.floor((v_least - v_ask.fixed_nanousd) / (1000 * v_ask.output_rate))));
        v_ask.needed_nanousd := pg_catalog.ceil(
          v_ask.fixed_nanousd + 1000 * v_ask.max_output_tokens * v_ask.output_rate);
      end if;

      if v_least < v_ask.needed_nanousd or v_least < 0 then
        v_ask.refusal := 'budget_exceeded';
        v_ask.detail := app_private.llm_refusal(v_ask, periods, v_least);
      elsif not all_come_back then
        foreach v_place in array v_ask.periods loop
          v_left[v_place] := v_left[v_place] - v_ask.needed_nanousd;
        end loop;
      end if;
    end if;
    v_asks := v_asks || v_ask;
  end loop;
  return v_asks;
end
$$;

comment on function app_private.llm_asks_fit is
  'Which of these requests fit all their budgets, one after the other: a later, smaller one may fit where an earlier did not. '
  'One that allows it is clamped to the output that fits. all_come_back: refuses only what would not fit if every '
  'hold that is open were released, and keeps nothing for one from the others.';
--! EndIncluded app_private/llm_asks_fit.sql
--! Included app_private/llm_keys_take.sql
create or replace function app_private.llm_keys_take(tenant_id uuid, asks app_private.llm_ask[])
returns app_private.llm_ask[]
language plpgsql
set search_path = ''
as $$
declare
  v_wanted integer;
  v_taken  integer;
begin
  -- In the order of the keys: two batches with the same ones wait for each other, and never in a ring.
  insert into app.llm_reservation_keys (tenant_id, idempotency_key, fingerprint, reservation_id)
  select llm_keys_take.tenant_id, a.idempotency_key, a.fingerprint, a.id
  from unnest(asks) as a
  where a.refusal is null
  order by a.idempotency_key, a.n
  on conflict on constraint llm_reservation_keys_pkey do nothing;
  get diagnostics v_taken = row_count;
  select count(*) into v_wanted from unnest(asks) as a where a.refusal is null;

  -- Somebody else was quicker, or the key comes twice here.
  return case when v_taken = v_wanted then asks
              else app_private.llm_asks_replayed(tenant_id, asks) end;
end
$$;

comment on function app_private.llm_keys_take is
  'Takes the keys of these requests, before any counter is locked. A key that is taken marks its request as a replay.';
--! EndIncluded app_private/llm_keys_take.sql
--! Included app_private/llm_periods_take.sql
create or replace function app_private.llm_periods_take(tenant_id uuid, periods app_private.llm_period[])
returns app_private.llm_period[]
language plpgsql
set search_path = ''
as $$
begin
  if exists (select from unnest(periods) as q where not q.made) then
    insert into app.llm_budget_periods (tenant_id, budget_id, period_start, period_end)
    select llm_periods_take.tenant_id, q.budget_id, q.period_start, q.period_end
    from unnest(periods) as q
    where not q.made
    order by q.place
    on conflict on constraint llm_budget_periods_pkey do nothing;
  end if;

  perform
  from unnest(periods) as q
  join app.llm_budget_periods as p
    on p.tenant_id = llm_periods_take.tenant_id and p.budget_id = q.budget_id
    and p.period_start = q.period_start
  order by q.place
  for no key update of p;

  -- A statement of its own: a limit that was lowered while this waited counts.
  return array(
    select (q.place, q.budget_id, q.scope, q.scope_id, q.period, q.period_start, q.period_end,
            b.limit_nanousd, p.spent_nanousd, p.reserved_nanousd, p.presumed_nanousd,
            true)::app_private.llm_period
    from unnest(periods) as q
    join app.llm_budget_periods as p
      on p.tenant_id = llm_periods_take.tenant_id and p.budget_id = q.budget_id
      and p.period_start = q.period_start
    join app.llm_budgets as b on b.tenant_id = llm_periods_take.tenant_id and b.id = q.budget_id
    order by q.place);
end
$$;

comment on function app_private.llm_periods_take is
  'Locks the counters of these periods, in their order, makes those that are not there, and answers them as they stand.';
--! EndIncluded app_private/llm_periods_take.sql
--! Included app_private/llm_holds_write.sql
create or replace function app_private.llm_holds_write(
  tenant_id uuid, asks app_private.llm_ask[], periods app_private.llm_period[], at timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into app.llm_reservations (tenant_id, id, provider, model, service_tier, run_id, attempt,
    input_tokens_bound, max_output_tokens, images, tool_calls, api_key, user_id, tags, estimated_cost_nanousd,
    price_ids, created_at, expires_at)
  select llm_holds_write.tenant_id, a.id, a.provider, a.model, a.service_tier, a.run_id, a.attempt,
         a.input_tokens_bound, a.max_output_tokens, a.images, a.tool_calls, a.api_key, a.user_id, a.tags,
         a.needed_nanousd, a.price_ids, at, at + a.ttl
  from unnest(asks) as a
  where a.refusal is null;

  with held as (
    insert into app.llm_reservation_budgets (tenant_id, reservation_id, budget_id, period_start)
    select llm_holds_write.tenant_id, a.id, p.budget_id, p.period_start
    from unnest(asks) as a
    cross join unnest(a.periods) as h (place)
    join unnest(llm_holds_write.periods) as p on p.place = h.place
    where a.refusal is null
  )
  update app.llm_budget_periods as p
  set reserved_nanousd = p.reserved_nanousd + s.needed,
      admitted_limit_nanousd = greatest(p.admitted_limit_nanousd, coalesce(q.limit_nanousd,
        p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd + s.needed))
  from (
    select h.place, sum(a.needed_nanousd) as needed
    from unnest(asks) as a
    cross join unnest(a.periods) as h (place)
    where a.refusal is null
    group by h.place) as s
  join unnest(llm_holds_write.periods) as q on q.place = s.place
  where p.tenant_id = llm_holds_write.tenant_id and p.budget_id = q.budget_id
    and p.period_start = q.period_start;

  -- Who is refused has used no key: the same request may come again.
  if exists (select from unnest(asks) as a where a.refusal = 'budget_exceeded') then
    delete from app.llm_reservation_keys as k
    using unnest(asks) as a
    where a.refusal = 'budget_exceeded'
      and k.tenant_id = llm_holds_write.tenant_id and k.idempotency_key = a.idempotency_key
      and k.reservation_id = a.id;
  end if;
end
$$;

comment on function app_private.llm_holds_write is
  'Writes the holds of the requests that were admitted, counts them in their budgets, and gives back the keys of the '
  'others. Under the locks of llm_periods_take.';
--! EndIncluded app_private/llm_holds_write.sql
--! Included app/llm_reserve_many.sql
create or replace function app.llm_reserve_many(
  tenant_id uuid, ticket text, asks jsonb, lock_timeout_ms integer default 3000)
returns table (
  n integer, id uuid, status text, estimated_cost_nanousd bigint, max_output_tokens bigint,
  expires_at timestamptz, replayed boolean, refusal text, detail jsonb, hint text)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_at      constant timestamptz := pg_catalog.clock_timestamp();
  v_asks    app_private.llm_ask[];
  v_periods app_private.llm_period[];
  v_ask     app_private.llm_ask;
  v_held    app.llm_reservations;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.llm_settings_set(lock_timeout_ms);

  v_asks := app_private.llm_asks_replayed(tenant_id, app_private.llm_asks_read(asks));
  v_asks := app_private.llm_asks_price(tenant_id, app_private.llm_asks_run(tenant_id, v_asks), v_at);
  v_periods := app_private.llm_asks_periods(tenant_id, v_asks, v_at);
  v_asks := app_private.llm_asks_place(v_asks, v_periods);
  -- What would not fit if every open hold were released is refused here: a storm of it locks nothing.
  v_asks := app_private.llm_asks_fit(v_asks, v_periods, all_come_back => true);

  if exists (select from unnest(v_asks) as a where a.refusal is null) then
    begin
      v_asks := app_private.llm_keys_take(tenant_id, v_asks);
      v_periods := app_private.llm_periods_take(tenant_id, v_periods);
      v_asks := app_private.llm_asks_fit(v_asks, v_periods, all_come_back => false);
      perform app_private.llm_holds_write(tenant_id, v_asks, v_periods, v_at);
      perform app_private.tenant_active(tenant_id);
    exception when lock_not_available then
      perform app_private.llm_busy();
    end;
  end if;

  foreach v_ask in array v_asks loop
    v_held := null;
    if v_ask.refusal = 'replayed' then
      select r.* into v_held
      from app.llm_reservations as r
      where r.tenant_id = llm_reserve_many.tenant_id and r.id = v_ask.id;
    end if;
    -- The same key again in one batch is answered as the first one was.
    if v_ask.refusal = 'replayed' and v_held.id is null then
      select f.refusal, f.detail into v_ask.refusal, v_ask.detail
      from unnest(v_asks) as f
      where f.id = v_ask.id and f.refusal = 'budget_exceeded';
    end if;

    n := v_ask.n;
    replayed := v_held.id is not null;
    refusal := nullif(v_ask.refusal, 'replayed');
    detail := v_ask.detail;
    hint := case when refusal is not null then app_private.llm_hint(refusal, detail) end;
    id := case when refusal is null then v_ask.id end;
    status := case when replayed then v_held.status when refusal is null then 'RESERVED' end;
    estimated_cost_nanousd := case when replayed then v_held.estimated_cost_nanousd
                                   when refusal is null then v_ask.needed_nanousd::bigint end;
    max_output_tokens := case when replayed then v_held.max_output_tokens
                              when refusal is null then v_ask.max_output_tokens end;
    expires_at := case when replayed then v_held.expires_at when refusal is null then v_at + v_ask.ttl end;
    return next;
  end loop;
end
$$;

comment on function app.llm_reserve_many is
  'Holds the most that each of these calls can cost, in every budget that it falls under or in none, before any of them is '
  'made: a JSON array of up to 1,000 objects with idempotency_key, provider, model, input_tokens_bound, max_output_tokens, '
  'and where wanted min_output_tokens (clamp down to it), service_tier, images, tool_calls, api_key, user_id, tags, run_id, '
  'attempt, ttl_ms. One that is refused fails no other: refusal has the name of the error. Raises LB105 for what is no list, '
  'LB301 when others keep the budget locked for longer than lock_timeout_ms, OP102.';

grant execute on function app.llm_reserve_many to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_reserve_many.sql
--! Included app/llm_reserve.sql
create or replace function app.llm_reserve(
  tenant_id uuid, ticket text, idempotency_key text, provider text, model text,
  input_tokens_bound bigint, max_output_tokens bigint,
  run_id uuid default null, attempt integer default 1, ttl interval default interval '2 minutes',
  min_output_tokens bigint default null, service_tier text default 'standard', images integer default 0,
  tool_calls integer default 0, api_key text default null, user_id text default null,
  tags text[] default '{}')
returns table (
  id uuid, status text, estimated_cost_nanousd bigint, expires_at timestamptz, replayed boolean,
  granted_output_tokens bigint)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
declare
  v_hold record;
begin
  perform app.enter(tenant_id, ticket);

  select h.* into v_hold
  from app.llm_reserve_many(tenant_id, ticket, pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object(
    'idempotency_key', idempotency_key, 'provider', provider, 'model', model,
    'input_tokens_bound', input_tokens_bound, 'max_output_tokens', max_output_tokens,
    'min_output_tokens', min_output_tokens, 'service_tier', service_tier, 'images', images,
    'tool_calls', tool_calls, 'api_key', api_key, 'user_id', user_id, 'tags', tags,
    'run_id', run_id, 'attempt', coalesce(attempt, -1),
    'ttl_ms', coalesce(extract(epoch from ttl) * 1000, -1)))) as h;
  if v_hold.refusal is not null then
    perform app_private.llm_raise(v_hold.refusal, v_hold.detail);
  end if;

  return query
  select v_hold.id, v_hold.status, v_hold.estimated_cost_nanousd, v_hold.expires_at, v_hold.replayed,
         v_hold.max_output_tokens;
end
$$;

comment on function app.llm_reserve is
  'Holds the most that a model call can cost, as app.llm_reserve_many does for many. The same key and request answer the '
  'first hold again. granted_output_tokens is what may be sent as max_tokens: less than was asked for where '
  'min_output_tokens allows it. Raises LB101 budget_exceeded, LB102 no_price, LB103, LB105, JB101 for a run_id that is no '
  'run of the tenant.';

grant execute on function app.llm_reserve to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_reserve.sql
--! Included app_private/llm_quote.sql
create or replace function app_private.llm_quote(tenant_id uuid, ask jsonb) returns app_private.llm_ask
language plpgsql
set search_path = ''
as $$
declare
  v_at      constant timestamptz := pg_catalog.clock_timestamp();
  v_asks    app_private.llm_ask[];
  v_periods app_private.llm_period[];
begin
  v_asks := app_private.llm_asks_read(pg_catalog.jsonb_build_array(
    pg_catalog.jsonb_build_object('idempotency_key', 'quote') || ask));
  v_asks := app_private.llm_asks_price(tenant_id, v_asks, v_at);
  v_periods := app_private.llm_asks_periods(tenant_id, v_asks, v_at);
  v_asks := app_private.llm_asks_fit(
    app_private.llm_asks_place(v_asks, v_periods), v_periods, all_come_back => false);
  return v_asks[1];
end
$$;

comment on function app_private.llm_quote is
  'What a request for a hold would be answered now. Holds nothing, locks nothing: the call itself still reserves.';
--! EndIncluded app_private/llm_quote.sql
--! Included app/llm_quote.sql
create or replace function app.llm_quote(tenant_id uuid, ticket text, ask jsonb)
returns table (
  fits boolean, estimated_cost_nanousd bigint, estimated_cost_usd numeric, granted_output_tokens bigint,
  refusal text, detail jsonb, hint text)
language plpgsql
security definer  -- the service role may not read budgets
set search_path = ''
as $$
declare
  v_ask app_private.llm_ask;
begin
  perform app.enter(tenant_id, ticket);
  v_ask := app_private.llm_quote(tenant_id, ask);
  return query
  select v_ask.refusal is null, v_ask.needed_nanousd::bigint, app_private.usd(v_ask.needed_nanousd::bigint),
         case when v_ask.refusal is null then v_ask.max_output_tokens end, v_ask.refusal, v_ask.detail,
         app_private.llm_hint(v_ask.refusal, v_ask.detail);
end
$$;

comment on function app.llm_quote is
  'What a hold of that size would be answered now, as app.llm_reserve_many takes it (no key is needed): the most that the '
  'call can cost, and whether it fits. Holds nothing.';

grant execute on function app.llm_quote to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_quote.sql
--! Included app_private/llm_settle.sql
-- Made once: a type knows no "create or replace".
do $$
begin
  if pg_catalog.to_regtype('app_private.llm_settle') is null then
    create type app_private.llm_settle as (
      n                   integer,
      reservation_id      uuid,
      final               boolean,
      used                app_private.llm_units,
      source              text,
      provider_request_id text,
      response_model      text,
      finish_reason       text,
      simulated           boolean,
      of_client           boolean,
      writes              boolean,
      run_id              uuid,
      provider            text,
      model               text,
      hold_nanousd        bigint,
      closed              boolean,
      before_nanousd      bigint,
      status              text,
      cost_nanousd        numeric,
      over_hold_nanousd   numeric,
      refusal             text,
      detail              jsonb
    );
  end if;
end
$$;

comment on type app_private.llm_settle is

  'What a call has used, as app.llm_settle_many works on it, its hold as it was found (closed: it had ended, with '
  'before_nanousd settled), and what became of it.';
--! EndIncluded app_private/llm_settle.sql
--! Included app_private/llm_units_fault.sql
create or replace function app_private.llm_units_fault(used app_private.llm_units) returns text
language sql
immutable
parallel safe
return case
  when not coalesce((used).input between 0 and 100000000 and (used).output between 0 and 100000000, false)
    then 'input_tokens and output_tokens are 0 to 100,000,000.'
  when not coalesce(least((used).cached_input, (used).cache_write_5m, (used).cache_write_1h) >= 0
    and (used).cached_input + (used).cache_write_5m + (used).cache_write_1h <= (used).input, false)
    then 'Tokens that were read from or written to a cache are part of the input tokens.'
  when not coalesce((used).reasoning between 0 and (used).output, false)
    then 'reasoning_tokens are part of the output tokens.'
  when not coalesce((used).image between 0 and 10000 and (used).tool_call between 0 and 10000, false)
    then 'images and tool_calls are 0 to 10,000.'
end;

comment on function app_private.llm_units_fault is 'What cannot be true of what a call used, in words; null when all can.';
--! EndIncluded app_private/llm_units_fault.sql
--! Included app_private/llm_settles_read.sql
create or replace function app_private.llm_settles_read(settles jsonb) returns app_private.llm_settle[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  v_settles app_private.llm_settle[] := array[]::app_private.llm_settle[];
  v_settle  app_private.llm_settle;
  v_fault   text;
begin
  if pg_catalog.jsonb_typeof(settles) is distinct from 'array'
    or pg_catalog.jsonb_array_length(settles) not between 1 and 1000
  then
    raise exception using
      errcode = 'LB105',
      message = 'reservation_invalid',
      hint    = 'What is settled is a JSON array of 1 to 1,000 objects.';
  end if;

  for v_settle in
    select e.n, x.reservation_id, coalesce(x.final, true),
           (app_private.whole(x.input_tokens), app_private.whole(coalesce(x.cached_input_tokens, 0)),
            app_private.whole(coalesce(x.cache_write_5m_tokens, 0)),
            app_private.whole(coalesce(x.cache_write_1h_tokens, 0)),
            app_private.whole(x.output_tokens), app_private.whole(coalesce(x.reasoning_tokens, 0)), 1,
            app_private.whole(coalesce(x.images, 0)),
            app_private.whole(coalesce(x.tool_calls, 0)))::app_private.llm_units,
           coalesce(x.source, 'provider'), pg_catalog.left(x.provider_request_id, 200),
           pg_catalog.left(x.response_model, 200), pg_catalog.left(x.finish_reason, 50),
           coalesce(x.simulated, false), coalesce(x.of_client, false),
           null::boolean, null::uuid, null::text, null::text, null::bigint, null::boolean, null::bigint,
           null::text, null::numeric, null::numeric, null::text, null::jsonb
    from pg_catalog.jsonb_array_elements(settles) with ordinality as e (settle, n)
    cross join lateral pg_catalog.jsonb_to_record(e.settle) as x (
      reservation_id uuid, final boolean, input_tokens numeric, cached_input_tokens numeric,
      cache_write_5m_tokens numeric, cache_write_1h_tokens numeric, output_tokens numeric,
      reasoning_tokens numeric, images numeric, tool_calls numeric, source text,
      provider_request_id text, response_model text, finish_reason text, simulated boolean,
      of_client boolean)
    order by e.n
  loop
    v_fault := case when v_settle.source not in ('provider', 'estimated')
                      then 'source is provider or estimated.'
                    else app_private.llm_units_fault(v_settle.used) end;
    if v_fault is not null then
      v_settle.refusal := 'reservation_invalid';
      v_settle.detail := pg_catalog.jsonb_build_object('fault', v_fault);
    end if;
    v_settles := v_settles || v_settle;
  end loop;
  return v_settles;
exception when data_exception or feature_not_supported then
  return app_private.llm_settles_read_one_by_one(settles);
end
$$;

comment on function app_private.llm_settles_read is
  'Reads what is to be settled; one whose numbers cannot be true is refused by itself. Raises LB105 for what is no list.';
--! EndIncluded app_private/llm_settles_read.sql
--! Included app_private/llm_settles_read_one_by_one.sql
create or replace function app_private.llm_settles_read_one_by_one(settles jsonb)
returns app_private.llm_settle[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  v_settles app_private.llm_settle[] := array[]::app_private.llm_settle[];
  v_settle  app_private.llm_settle;
begin
  for n in 0 .. pg_catalog.jsonb_array_length(settles) - 1 loop
    if pg_catalog.jsonb_array_length(settles) > 1 then
      v_settle := (app_private.llm_settles_read(pg_catalog.jsonb_build_array(settles -> n)))[1];
    else
      v_settle.refusal := 'reservation_invalid';
      v_settle.detail := pg_catalog.jsonb_build_object('fault', 'A field has a value of the wrong type.');
    end if;
    v_settle.n := n + 1;
    v_settles := v_settles || v_settle;
  end loop;
  return v_settles;
end
$$;

comment on function app_private.llm_settles_read_one_by_one is
  'Reads a list in which something is of the wrong type, so that it refuses no other.';
--! EndIncluded app_private/llm_settles_read_one_by_one.sql
--! Included app_private/llm_settles_lock.sql
create or replace function app_private.llm_settles_lock(tenant_id uuid, settles app_private.llm_settle[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(select distinct s.reservation_id from unnest(settles) as s);
begin
  if pg_catalog.cardinality(v_ids) = pg_catalog.cardinality(settles) then return; end if;

  perform
  from app.llm_reservations as r
  where r.tenant_id = llm_settles_lock.tenant_id and r.id = any (v_ids)
  order by r.id
  for no key update;
  -- In the order of app_private.llm_asks_periods.
  perform
  from (
    select distinct h.budget_id, h.period_start
    from app.llm_reservation_budgets as h
    where h.tenant_id = llm_settles_lock.tenant_id and h.reservation_id = any (v_ids)) as h
  join app.llm_budgets as b on b.tenant_id = llm_settles_lock.tenant_id and b.id = h.budget_id
  join app.llm_budget_periods as p
    on p.tenant_id = llm_settles_lock.tenant_id and p.budget_id = h.budget_id
    and p.period_start = h.period_start
  order by b.scope = 'tenant', p.budget_id, p.period_start
  for no key update of p;
end
$$;

comment on function app_private.llm_settles_lock is
  'Locks the holds and the counters of a batch in which one hold comes twice, so that what is settled in several steps locks '
  'in one order. Nothing for other batches, which are settled in one step.';
--! EndIncluded app_private/llm_settles_lock.sql
--! Included app_private/llm_settle_again.sql
create or replace function app_private.llm_settle_again(
  held app.llm_reservations, settle app_private.llm_settle)
returns app_private.llm_settle
language plpgsql
stable
set search_path = ''
as $$
begin
  select held.status, held.settled_nanousd, greatest(0, held.settled_nanousd - held.estimated_cost_nanousd)
  into settle.status, settle.cost_nanousd, settle.over_hold_nanousd
  from app.llm_usage as u
  where u.tenant_id = held.tenant_id and u.reservation_id = held.id and u.status in ('SETTLED', 'ADJUSTED')
    and settle.final
    and (u.input_tokens, u.cached_input_tokens, u.cache_write_5m_tokens, u.cache_write_1h_tokens,
         u.output_tokens, u.reasoning_tokens, u.images, u.tool_calls)
      = ((settle.used).input, (settle.used).cached_input, (settle.used).cache_write_5m,
         (settle.used).cache_write_1h, (settle.used).output, (settle.used).reasoning, (settle.used).image,
         (settle.used).tool_call);
  if not found then
    settle.refusal := 'reservation_closed';
  end if;
  return settle;
end
$$;

comment on function app_private.llm_settle_again is
  'A settle of a hold that is settled: the first answer where it says the same, else it is refused.';
--! EndIncluded app_private/llm_settle_again.sql
--! Included app_private/llm_adjustable.sql
create or replace function app_private.llm_adjustable(
  held app.llm_reservations, settle app_private.llm_settle)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return (held.status = 'WRITTEN_OFF' or exists (
      select from app.llm_usage as u
      where u.tenant_id = held.tenant_id and u.reservation_id = held.id and u.status = 'SETTLED'
        and u.source = 'estimated'))
    and not exists (
      select from app.llm_usage as u
      where u.tenant_id = held.tenant_id and u.reservation_id = held.id and u.status = 'ADJUSTED'
        and u.source = 'provider')
    and (app_private.llm_settle_again(held, settle)).refusal is not null;
end
$$;

comment on function app_private.llm_adjustable is
  'Whether a hold that has ended may still learn, once, what its call did cost: it was written off, or charged '
  'by an estimate. The same settle again is none.';
--! EndIncluded app_private/llm_adjustable.sql
--! Included app_private/llm_settles_judge.sql
create or replace function app_private.llm_settles_judge(
  tenant_id uuid, settles app_private.llm_settle[], held app.llm_reservations[])
returns app_private.llm_settle[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_settles app_private.llm_settle[] := array[]::app_private.llm_settle[];
  v_settle  app_private.llm_settle;
  v_hold    app.llm_reservations;
  v_cost    numeric;
  v_ids     uuid[];                 -- the prices that these are the rates of
  v_prompt  bigint;
  v_rates   app_private.llm_rates;
  v_tiered  boolean;
  v_next    integer := 1;
begin
  -- Both come in the order of the ids.
  foreach v_settle in array settles loop
    v_hold := null;
    if held[v_next].id = v_settle.reservation_id then
      v_hold := held[v_next];
      v_next := v_next + 1;
    end if;
    if v_settle.refusal is not null then
      null;
    elsif v_hold.id is null or (v_settle.of_client and v_hold.run_id is not null) then
      v_settle.refusal := 'reservation_not_found';
    elsif v_hold.status = 'RELEASED' or (v_hold.closed_at is not null and not v_settle.final) then
      v_settle.refusal := 'reservation_closed';
    elsif v_hold.closed_at is not null and not app_private.llm_adjustable(v_hold, v_settle) then
      v_settle := app_private.llm_settle_again(v_hold, v_settle);
    else
      if v_hold.price_ids is distinct from v_ids or (v_tiered and (v_settle.used).input <> v_prompt) then
        v_ids := v_hold.price_ids;
        v_prompt := (v_settle.used).input;
        v_rates := app_private.llm_rates_for(tenant_id, v_ids, v_prompt);
        v_tiered := app_private.llm_tiered(v_ids);
      end if;
      v_cost := app_private.llm_cost(v_settle.used, v_rates);
      -- What was counted before the truth came is not given back by it.
      if v_hold.closed_at is not null or not v_settle.final then
        v_cost := greatest(v_cost, v_hold.settled_nanousd);
      end if;
      v_settle.writes := true;
      v_settle.run_id := v_hold.run_id;
      v_settle.provider := v_hold.provider;
      v_settle.model := v_hold.model;
      v_settle.hold_nanousd := v_hold.estimated_cost_nanousd;
      v_settle.closed := v_hold.closed_at is not null;
      v_settle.before_nanousd := v_hold.settled_nanousd;
      v_settle.status := case when v_settle.final and v_hold.status <> 'WRITTEN_OFF' then 'APPLIED'
                              else v_hold.status end;
      v_settle.cost_nanousd := v_cost;
      v_settle.over_hold_nanousd := greatest(0, v_cost - v_hold.estimated_cost_nanousd);
    end if;
    if v_settle.refusal = 'reservation_closed' then
      v_settle.detail := pg_catalog.jsonb_build_object('reservation_id', v_hold.id, 'status', v_hold.status);
    end if;
    v_settles := v_settles || v_settle;
  end loop;
  return v_settles;
end
$$;

comment on function app_private.llm_settles_judge is
  'What becomes of each of these holds: APPLIED at its pinned prices by a final settle, also late; what comes after it was '
  'written off, or after it was charged by an estimate, is an adjustment; a stream settles in parts. The same settle again '
  'answers the same, another one is refused.';
--! EndIncluded app_private/llm_settles_judge.sql
--! Included app_private/llm_settles_apply.sql
create or replace function app_private.llm_settles_apply(tenant_id uuid, settles app_private.llm_settle[])
returns app_private.llm_settle[]
language plpgsql
set search_path = ''
as $$
declare
  v_at     constant timestamptz := pg_catalog.clock_timestamp();
  v_held   app.llm_reservations[];
  v_judged app_private.llm_settle[];
begin
  v_held := array(
    select r
    from app.llm_reservations as r
    where r.tenant_id = llm_settles_apply.tenant_id
      and r.id = any (array(select s.reservation_id from unnest(settles) as s where s.refusal is null))
    order by r.id
    for no key update);
  v_judged := app_private.llm_settles_judge(tenant_id, settles, v_held);

  update app.llm_reservations as r
  set status = s.status,
      settled_nanousd = s.cost_nanousd,
      cost_nanousd = case when s.status = 'APPLIED' then s.cost_nanousd end,
      presumed_at = case when s.status = 'PRESUMED' then v_at else r.presumed_at end,  -- it was heard of
      used = case when s.final then r.used else pg_catalog.to_jsonb(s.used) end,
      closed_at = case when s.status = 'APPLIED' then coalesce(r.closed_at, v_at) else r.closed_at end
  from unnest(v_judged) as s
  where s.writes and r.tenant_id = llm_settles_apply.tenant_id and r.id = s.reservation_id;

  insert into app.llm_usage (tenant_id, reservation_id, run_id, provider, model, response_model, status,
    input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
    reasoning_tokens, images, tool_calls, cost_nanousd, over_hold_nanousd, provider_request_id, finish_reason,
    source, simulated)
  select llm_settles_apply.tenant_id, s.reservation_id, s.run_id, s.provider, s.model, s.response_model,
         case when s.closed then 'ADJUSTED' else 'SETTLED' end,
         (s.used).input, (s.used).cached_input, (s.used).cache_write_5m, (s.used).cache_write_1h,
         (s.used).output, (s.used).reasoning, (s.used).image, (s.used).tool_call,
         s.cost_nanousd - case when s.closed then s.before_nanousd else 0 end,
         s.over_hold_nanousd - case when s.closed
           then greatest(0, s.before_nanousd - s.hold_nanousd) else 0 end,
         s.provider_request_id, s.finish_reason, s.source, s.simulated
  from unnest(v_judged) as s
  where s.writes and s.final;

  return v_judged;
end
$$;

comment on function app_private.llm_settles_apply is
  'Settles holds, each once: locks them, judges them, and writes what they cost. The counters follow by the trigger of '
  'app.llm_reservations.';
--! EndIncluded app_private/llm_settles_apply.sql
--! Included app/llm_settle_many.sql
create or replace function app.llm_settle_many(
  tenant_id uuid, ticket text, settles jsonb, lock_timeout_ms integer default 3000)
returns table (
  n integer, id uuid, status text, cost_nanousd bigint, over_hold_nanousd bigint,
  refusal text, detail jsonb, hint text)
language plpgsql
security definer  -- the shell may not write usage
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_left  app_private.llm_settle[];
  v_step  app_private.llm_settle[];
  v_done  app_private.llm_settle[] := array[]::app_private.llm_settle[];
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.llm_settings_set(lock_timeout_ms);
  v_left := app_private.llm_settles_read(settles);

  begin
    -- Of one hold one at a time, in their order; all that the later ones need is locked before the first.
    perform app_private.llm_settles_lock(tenant_id, v_left);
    while pg_catalog.cardinality(v_left) > 0 loop
      v_step := array(
        select distinct on (s.reservation_id) s from unnest(v_left) as s order by s.reservation_id, s.n);
      v_done := v_done || app_private.llm_settles_apply(tenant_id, v_step);
      exit when pg_catalog.cardinality(v_step) = pg_catalog.cardinality(v_left);
      v_left := array(select s from unnest(v_left) as s except select s from unnest(v_step) as s);
    end loop;
  exception when lock_not_available then
    perform app_private.llm_busy();
  end;

  return query
  select s.n, s.reservation_id, s.status, s.cost_nanousd::bigint, s.over_hold_nanousd::bigint,
         s.refusal, s.detail,
         case when s.refusal is not null then app_private.llm_hint(s.refusal, s.detail) end
  from unnest(v_done) as s
  order by s.n;
end
$$;

comment on function app.llm_settle_many is
  'Replaces holds by what their calls did cost, at the prices of the moment they were reserved: a JSON array of up to 1,000 '
  'objects with reservation_id, input_tokens, output_tokens, and where there are such cached_input_tokens, '
  'cache_write_5m_tokens, cache_write_1h_tokens, reasoning_tokens, images, tool_calls, final (false: a stream so far; the '
  'numbers are of the whole call each time), source (provider, or estimated), provider_request_id, response_model, '
  'finish_reason, simulated, of_client (true: the hold of a run is not found). Late is accepted, and more than the hold is '
  'recorded. One that is refused fails no other. '
  'Raises LB105 for what is no list, LB301 when others keep the budget locked for longer than lock_timeout_ms.';

grant execute on function app.llm_settle_many to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_settle_many.sql
--! Included app/llm_settle.sql
create or replace function app.llm_settle(
  tenant_id uuid, ticket text, reservation_id uuid, input_tokens bigint, output_tokens bigint,
  cached_input_tokens bigint default 0, provider_request_id text default null,
  response_model text default null, finish_reason text default null, simulated boolean default false,
  final boolean default true, cache_write_5m_tokens bigint default 0, cache_write_1h_tokens bigint default 0,
  reasoning_tokens bigint default 0, images integer default 0, tool_calls integer default 0,
  source text default 'provider')
returns table (id uuid, status text, cost_nanousd bigint, over_hold_nanousd bigint)
language plpgsql
security definer  -- the shell may not write usage
set search_path = ''
as $$
declare
  v_settled record;
begin
  perform app.enter(tenant_id, ticket);

  select s.* into v_settled
  from app.llm_settle_many(tenant_id, ticket, pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object(
    'reservation_id', reservation_id, 'final', final, 'input_tokens', input_tokens,
    'cached_input_tokens', coalesce(cached_input_tokens, -1), 'cache_write_5m_tokens', cache_write_5m_tokens,
    'cache_write_1h_tokens', cache_write_1h_tokens, 'output_tokens', output_tokens,
    'reasoning_tokens', reasoning_tokens, 'images', images, 'tool_calls', tool_calls, 'source', source,
    'provider_request_id', provider_request_id, 'response_model', response_model,
    'finish_reason', finish_reason, 'simulated', simulated))) as s;
  if v_settled.refusal is not null then
    perform app_private.llm_raise(v_settled.refusal, v_settled.detail);
  end if;

  return query
  select v_settled.id, v_settled.status, v_settled.cost_nanousd, v_settled.over_hold_nanousd;
end
$$;

comment on function app.llm_settle is
  'Replaces a hold by what the call did cost, at the prices of the moment it was reserved. A presumed hold may be '
  'settled late, and a cost above the hold is recorded, never hidden. final => false: a stream so far, which stays held for '
  'the rest. Raises LB104, LB105, LB201.';

grant execute on function app.llm_settle to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_settle.sql
--! Included app_private/llm_headroom.sql
create or replace function app_private.llm_headroom(tenant_id uuid, at timestamptz)
returns table (
  budget_id uuid, scope text, scope_id text, period text, period_start timestamptz, period_end timestamptz,
  hard boolean, limit_nanousd bigint, spent_nanousd bigint, reserved_nanousd bigint, presumed_nanousd bigint,
  left_nanousd bigint)
language sql
stable
set search_path = ''
as $$
  select b.id, b.scope, b.scope_id, b.period, s.period_start, s.period_end, b.hard, b.limit_nanousd,
         coalesce(p.spent_nanousd, 0), coalesce(p.reserved_nanousd, 0), coalesce(p.presumed_nanousd, 0),
         b.limit_nanousd - coalesce(p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd, 0)
  from app.llm_budgets as b
  join app.tenants as t on t.tenant_id = b.tenant_id
  cross join lateral app_private.period_bounds(b.period, t.time_zone, $2, t.anchor_day) as s
  left join app.llm_budget_periods as p
    on p.tenant_id = b.tenant_id and p.budget_id = b.id and p.period_start = s.period_start
  where b.tenant_id = $1
  order by b.scope <> 'tenant', b.scope, b.scope_id, b.period
$$;

comment on function app_private.llm_headroom is
  'Each budget of a tenant in its current period, whether or not its row was made yet; '
  'left may be negative after a cut, and is null where it is unlimited, as the limit is.';

grant execute on function app_private.llm_headroom to holdfast_system;
--! EndIncluded app_private/llm_headroom.sql
--! Included app_private/llm_reservation_lock.sql
create or replace function app_private.llm_reservation_lock(
  tenant_id uuid, reservation_id uuid, of_client boolean default false)
returns app.llm_reservations
language plpgsql
set search_path = ''
as $$
declare
  v_reservation app.llm_reservations;
begin
  select r.* into v_reservation
  from app.llm_reservations as r
  where r.tenant_id = llm_reservation_lock.tenant_id and r.id = reservation_id
  for no key update;
  if not found or (of_client and v_reservation.run_id is not null) then
    raise exception using
      errcode = 'LB104',
      message = 'reservation_not_found',
      hint    = 'Use the id that llm_reserve answered, for the tenant that reserved it.';
  end if;
  return v_reservation;
end
$$;

comment on function app_private.llm_reservation_lock is
  'The reservation, locked. Raises LB104, alike for an absent and a foreign id, and of_client, which is '
  'what a client may end itself, for that of a run.';
--! EndIncluded app_private/llm_reservation_lock.sql
--! Included app_private/llm_end.sql
create or replace function app_private.llm_end(
  tenant_id uuid, reservation_id uuid, to_status text, reason text, of_client boolean default false)
returns table (id uuid, status text)
language plpgsql
set search_path = ''
as $$
declare
  v_held app.llm_reservations;
begin
  v_held := app_private.llm_reservation_lock(tenant_id, reservation_id, of_client);

  -- What a stream has settled was billed.
  if to_status = 'RELEASED' and v_held.status = 'RESERVED' and v_held.settled_nanousd > 0 then
    perform app_private.llm_closed(v_held);
  end if;
  if v_held.status <> to_status then
    update app.llm_reservations as r
    set status = to_status,
        reason = pg_catalog.left(llm_end.reason, 200),
        presumed_at = case when to_status = 'PRESUMED'
          then pg_catalog.clock_timestamp() else r.presumed_at end,
        closed_at = case when to_status = 'RELEASED' then pg_catalog.clock_timestamp() end
    where r.tenant_id = v_held.tenant_id and r.id = v_held.id;
  end if;

  return query select v_held.id, to_status;
end
$$;

comment on function app_private.llm_end is
  'Ends a hold without a cost, RELEASED or PRESUMED, once. Raises LB104, and LB201 also by the transition trigger.';
--! EndIncluded app_private/llm_end.sql
--! Included app/llm_release.sql
create or replace function app.llm_release(
  tenant_id uuid, ticket text, reservation_id uuid, reason text, lock_timeout_ms integer default 3000,
  of_client boolean default false)
returns table (id uuid, status text)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.llm_settings_set(lock_timeout_ms);
  return query
  select e.id, e.status
  from app_private.llm_end(tenant_id, reservation_id, 'RELEASED', reason, of_client) as e;
exception when lock_not_available then
  perform app_private.llm_busy();
end
$$;

comment on function app.llm_release is
  'Gives a hold back, with proof that nothing was billed: the call was never sent, or was refused before it was run. '
  'The same call again answers the same. Raises LB104, LB201, LB301, OP102. of_client: '
  'for the hold of a run LB104.';

grant execute on function app.llm_release to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_release.sql
--! Included app/llm_presume.sql
create or replace function app.llm_presume(
  tenant_id uuid, ticket text, reservation_id uuid, reason text, lock_timeout_ms integer default 3000)
returns table (id uuid, status text)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.llm_settings_set(lock_timeout_ms);
  return query
  select e.id, e.status from app_private.llm_end(tenant_id, reservation_id, 'PRESUMED', reason) as e;
exception when lock_not_available then
  perform app_private.llm_busy();
end
$$;

comment on function app.llm_presume is
  'Marks a hold whose outcome is unknown: the call may have been billed, so it counts until it is settled or written '
  'off. The same call again answers the same. Raises LB104, LB201, LB301, OP102.';

grant execute on function app.llm_presume to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_presume.sql
--! Included app/llm_extend.sql
create or replace function app.llm_extend(
  tenant_id uuid, ticket text, reservation_id uuid, ttl interval, lock_timeout_ms integer default 3000,
  of_client boolean default false)
returns table (id uuid, status text, expires_at timestamptz)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
declare
  v_at   constant timestamptz := pg_catalog.clock_timestamp();
  v_held app.llm_reservations;
begin
  perform app.enter(tenant_id, ticket);
  if coalesce(ttl, interval '-1 second') not between interval '0' and interval '1 hour'
    or extract(year from ttl) <> 0 or extract(month from ttl) <> 0 or extract(day from ttl) <> 0
  then
    raise exception using
      errcode = 'LB105',
      message = 'reservation_invalid',
      hint    = 'ttl is at most an hour, in minutes and seconds.';
  end if;
  perform app_private.llm_settings_set(lock_timeout_ms);
  v_held := app_private.llm_reservation_lock(tenant_id, reservation_id, of_client);
  -- Past its time it is presumed, whether or not the sweeper has come by.
  if v_held.status <> 'RESERVED' or v_held.expires_at < v_at then
    perform app_private.llm_closed(v_held);
  end if;

  return query
  update app.llm_reservations as r
  set expires_at = least(greatest(r.expires_at, v_at + ttl), r.created_at + interval '1 day')
  where r.tenant_id = v_held.tenant_id and r.id = v_held.id
  returning r.id, r.status, r.expires_at;
exception when lock_not_available then
  perform app_private.llm_busy();
end
$$;

comment on function app.llm_extend is
  'The heartbeat of a call that goes on: its hold lasts ttl from now, at most an hour, and a day in all. Raises LB104, LB105, '
  'LB201 for one that has ended or is past its time, LB301, OP102. of_client: '
  'for the hold of a run LB104.';

grant execute on function app.llm_extend to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_extend.sql
--! Included app_private/llm_periods_lock.sql
create or replace function app_private.llm_periods_lock(tenant_id uuid, reservation_id uuid) returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_hold record;
begin
  for v_hold in
    select h.budget_id, h.period_start
    from app.llm_reservation_budgets as h
    join app.llm_budgets as b on b.tenant_id = h.tenant_id and b.id = h.budget_id
    where h.tenant_id = llm_periods_lock.tenant_id and h.reservation_id = llm_periods_lock.reservation_id
    order by b.scope = 'tenant', h.budget_id, h.period_start
  loop
    perform from app.llm_budget_periods as p
    where p.tenant_id = llm_periods_lock.tenant_id
      and p.budget_id = v_hold.budget_id
      and p.period_start = v_hold.period_start
    for no key update skip locked;
    if not found then
      return false;
    end if;
  end loop;
  return true;
end
$$;

comment on function app_private.llm_periods_lock is
  'Locks the counters of every budget that a reservation is held in, or answers false when another has one of them: '
  'nothing is waited for.';

grant execute on function app_private.llm_periods_lock to holdfast_system;
--! EndIncluded app_private/llm_periods_lock.sql
--! Included app/llm_expire.sql
set local role holdfast_system;

create or replace function app.llm_expire(max_rows integer default 500)
returns table (tenant_id uuid, reservation_id uuid, run_id uuid)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
set row_security = on
as $$
declare
  v_due  record;
  v_held app.llm_reservations;
begin
  -- One by one, and nothing is waited for: a tenant that keeps a row locked must not stop the others. As one statement
  -- with "skip locked" twice it crashed PostgreSQL 18.4 within a minute of 24 callers.
  for v_due in select e.tenant_id, e.id from app_private.llm_expired(max_rows) as e loop
    select r.* into v_held
    from app.llm_reservations as r
    where r.tenant_id = v_due.tenant_id and r.id = v_due.id and r.status = 'RESERVED'
      and r.expires_at < pg_catalog.clock_timestamp()  -- nobody has extended it meanwhile
    for no key update skip locked;
    continue when not found or not app_private.llm_periods_lock(v_due.tenant_id, v_due.id);

    update app.llm_reservations as r
    set status = 'PRESUMED', reason = 'expired', presumed_at = pg_catalog.clock_timestamp()
    where r.tenant_id = v_due.tenant_id and r.id = v_due.id;
    return query select v_due.tenant_id, v_due.id, v_held.run_id;
  end loop;
end
$$;

comment on function app.llm_expire is
  'Turns holds past their time into PRESUMED, among all tenants, max_rows at a time; answers which. It only '
  'tidies: an expired hold counts the same before and after. What is locked is left for the next time.';

grant execute on function app.llm_expire to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/llm_expire.sql
--! Included app_private/llm_written_off.sql
create or replace function app_private.llm_written_off(held app.llm_reservations, reason text) returns void
language plpgsql
set search_path = ''
as $$
begin
  update app.llm_reservations as r
  set status = 'WRITTEN_OFF',
      reason = pg_catalog.left(llm_written_off.reason, 200),
      closed_at = pg_catalog.clock_timestamp()
  where r.tenant_id = held.tenant_id and r.id = held.id;

  -- What its stream had settled stays spent.
  insert into app.llm_usage (tenant_id, reservation_id, run_id, provider, model, status, input_tokens,
    cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
    images, tool_calls, cost_nanousd, source)
  select held.tenant_id, held.id, held.run_id, held.provider, held.model, 'PARTIAL', u.input, u.cached_input,
         u.cache_write_5m, u.cache_write_1h, u.output, u.reasoning, u.image, u.tool_call,
         held.settled_nanousd, 'estimated'
  from pg_catalog.jsonb_populate_record(null::app_private.llm_units, held.used) as u
  where held.settled_nanousd > 0;
end
$$;

comment on function app_private.llm_written_off is
  'Gives back what of a PRESUMED hold was not settled. Raises LB201 by the transition trigger.';

grant execute on function app_private.llm_written_off to holdfast_system;
--! EndIncluded app_private/llm_written_off.sql
--! Included app_private/llm_charged_whole.sql
create or replace function app_private.llm_charged_whole(held app.llm_reservations) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_cost constant bigint := greatest(held.estimated_cost_nanousd, held.settled_nanousd);
begin
  update app.llm_reservations as r
  set status = 'APPLIED', cost_nanousd = v_cost, settled_nanousd = v_cost,
      closed_at = pg_catalog.clock_timestamp(), reason = 'policy: charge_worst_case'
  where r.tenant_id = held.tenant_id and r.id = held.id;

  insert into app.llm_usage (tenant_id, reservation_id, run_id, provider, model, input_tokens, output_tokens,
    images, tool_calls, cost_nanousd, over_hold_nanousd, source)
  values (held.tenant_id, held.id, held.run_id, held.provider, held.model, held.input_tokens_bound,
    held.max_output_tokens, held.images, held.tool_calls, v_cost, v_cost - held.estimated_cost_nanousd,
    'estimated');
end
$$;

comment on function app_private.llm_charged_whole is
  'Charges a PRESUMED hold with all that its call could have cost.';

grant execute on function app_private.llm_charged_whole to holdfast_system;
--! EndIncluded app_private/llm_charged_whole.sql
--! Included app_private/llm_presumed_due.sql
create or replace function app_private.llm_presumed_due(max_rows integer)
returns table (tenant_id uuid, id uuid, policy text)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select d.tenant_id, d.id, d.presumed_policy
  from (
    select t.tenant_id, x.id, t.presumed_policy, x.presumed_at,
           row_number() over (partition by t.tenant_id order by x.presumed_at) as place
    from app.tenants as t
    join app.llm_reservations as x on x.tenant_id = t.tenant_id and x.status = 'PRESUMED'
    where case t.presumed_policy
            when 'hold' then false
            when 'release_after' then x.presumed_at < pg_catalog.clock_timestamp() - t.presumed_after
            -- Its last period but an endless one is over.
            else not exists (
              select from app.llm_reservation_budgets as h
              join app.llm_budget_periods as p
                on p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start
              where h.tenant_id = x.tenant_id and h.reservation_id = x.id
                and p.period_end > pg_catalog.clock_timestamp() and p.period_end <> 'infinity') end) as d
  order by d.place, d.presumed_at
  limit max_rows;
end
$$;

comment on function app_private.llm_presumed_due is

  'PRESUMED holds for which the policy of their tenant says that they are to end now, the oldest of each tenant first: what '
  'one tenant keeps locked must not fill a batch.';

grant execute on function app_private.llm_presumed_due to holdfast_system;
--! EndIncluded app_private/llm_presumed_due.sql
--! Included app/llm_presumed_resolve.sql
set local role holdfast_system;

create or replace function app.llm_presumed_resolve(max_rows integer default 500)
returns table (tenant_id uuid, reservation_id uuid, status text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
set row_security = on
as $$
declare
  v_due  record;
  v_held app.llm_reservations;
begin
  -- One by one, and nothing is waited for, as in app.llm_expire.
  for v_due in select d.tenant_id, d.id, d.policy from app_private.llm_presumed_due(max_rows) as d loop
    select r.* into v_held
    from app.llm_reservations as r
    where r.tenant_id = v_due.tenant_id and r.id = v_due.id and r.status = 'PRESUMED'
    for no key update skip locked;
    continue when not found or not app_private.llm_periods_lock(v_due.tenant_id, v_due.id);

    if v_due.policy = 'release_after' then
      perform app_private.llm_written_off(v_held, 'policy: release_after');
      status := 'WRITTEN_OFF';
    else
      perform app_private.llm_charged_whole(v_held);
      status := 'APPLIED';
    end if;
    tenant_id := v_due.tenant_id;
    reservation_id := v_due.id;
    return next;
  end loop;
end
$$;

comment on function app.llm_presumed_resolve is
  'Ends PRESUMED holds as the policy of their tenant says (app.tenants.presumed_policy), among all tenants, max_rows at a '
  'time; answers which, and how. What is locked is left for the next time.';

grant execute on function app.llm_presumed_resolve to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/llm_presumed_resolve.sql
--! Included app/llm_sweep.sql
set local role holdfast_system;

create or replace function app.llm_sweep(max_rows integer default 20000) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_keys integer;
begin
  with old as materialized (
    select k.tenant_id, k.idempotency_key
    from app.llm_reservation_keys as k
    where k.created_at < pg_catalog.now() - interval '30 days'
    limit max_rows
    for no key update skip locked
  )
  delete from app.llm_reservation_keys as k
  using old as o
  where k.tenant_id = o.tenant_id and k.idempotency_key = o.idempotency_key;
  get diagnostics v_keys = row_count;
  return v_keys;
end
$$;

comment on function app.llm_sweep is
  'Removes the idempotency keys of reservations after 30 days, among all tenants, max_rows at a time; answers how many. The '
  'reservations stay.';

grant execute on function app.llm_sweep to holdfast_worker, holdfast_owner;

set local role holdfast_owner;
--! EndIncluded app/llm_sweep.sql
--! Included app/llm_check.sql
set local role holdfast_system;

create or replace function app.llm_check() returns table (invariant text, tenant_id uuid, facts jsonb)
language plpgsql
stable
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
begin
  return query
  with sums as (
    select h.tenant_id, h.budget_id, h.period_start,
           sum(app_private.llm_rest(r, 'RESERVED')) as reserved,
           sum(app_private.llm_rest(r, 'PRESUMED')) as presumed,
           sum(r.settled_nanousd) as spent,
           -- What came to light when the hold had ended came on top.
           sum(a.late + greatest(0, r.settled_nanousd - a.late - r.estimated_cost_nanousd)) as over
    from app.llm_reservation_budgets as h
    join app.llm_reservations as r on r.tenant_id = h.tenant_id and r.id = h.reservation_id
    cross join lateral (
      select coalesce(sum(u.cost_nanousd), 0) as late
      from app.llm_usage as u
      where u.tenant_id = r.tenant_id and u.reservation_id = r.id and u.status = 'ADJUSTED') as a
    group by h.tenant_id, h.budget_id, h.period_start
  ),
  pairs as (
    select coalesce(p.tenant_id, s.tenant_id) as tenant_id, coalesce(p.budget_id, s.budget_id) as budget_id,
           p.period_start, s.reserved, s.presumed, s.spent, s.over, b.unlimited, p
    from app.llm_budget_periods as p
    full join sums as s
      on s.tenant_id = p.tenant_id and s.budget_id = p.budget_id and s.period_start = p.period_start
    left join app.llm_budgets as b on b.tenant_id = p.tenant_id and b.id = p.budget_id
  )
  select 'counters_equal_reservations', x.tenant_id, to_jsonb(x)
  from pairs as x
  where ((x.p).reserved_nanousd, (x.p).presumed_nanousd, (x.p).spent_nanousd)
    is distinct from (coalesce(x.reserved, 0), coalesce(x.presumed, 0), coalesce(x.spent, 0))
  union all
  select 'never_over_the_limit', x.tenant_id, to_jsonb(x)
  from pairs as x
  where (x.p).reserved_nanousd + (x.p).presumed_nanousd + (x.p).spent_nanousd
    > (x.p).admitted_limit_nanousd + coalesce(x.over, 0) and not x.unlimited
  union all
  select 'reservation_holds_a_budget', r.tenant_id, to_jsonb(r)
  from app.llm_reservations as r
  where not exists (
    select from app.llm_reservation_budgets as h where h.tenant_id = r.tenant_id and h.reservation_id = r.id)
  union all
  select case r.status when 'WRITTEN_OFF' then 'what_is_spent_has_usage' else 'applied_has_one_usage' end,
         r.tenant_id, to_jsonb(r)
  from app.llm_reservations as r
  left join lateral (
    select count(*) filter (where u.status = 'SETTLED') as rows, coalesce(sum(u.cost_nanousd), 0) as cost
    from app.llm_usage as u
    where u.tenant_id = r.tenant_id and u.reservation_id = r.id) as x on true
  where x.rows <> (r.status = 'APPLIED')::integer
    or (r.closed_at is not null and x.cost <> r.settled_nanousd)
  union all
  select 'usage_has_a_reservation', u.tenant_id, to_jsonb(u)
  from app.llm_usage as u
  where not exists (
    select from app.llm_reservations as r where r.tenant_id = u.tenant_id and r.id = u.reservation_id);
end
$$;

comment on function app.llm_check is
  'Every broken invariant of the budget, among all tenants; no row when all is sound. Counters equal the reservations; '
  'spent + reserved + presumed is at most the limit plus recorded over-runs; each settled call has one usage row, and what '
  'is spent has usage.';

grant execute on function app.llm_check to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/llm_check.sql
--! Included app/budget_status.sql
create or replace function app.budget_status(tenant_id uuid, ticket text)
returns table (
  scope text, scope_id text, period text, period_start timestamptz, period_end timestamptz, hard boolean,
  limit_nanousd bigint, spent_nanousd bigint, reserved_nanousd bigint, presumed_nanousd bigint,
  left_nanousd bigint,
  limit_usd numeric, spent_usd numeric, reserved_usd numeric, presumed_usd numeric, left_usd numeric)
language plpgsql
security definer  -- the service role may not read budgets
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  return query
  select h.scope, h.scope_id, h.period, nullif(h.period_start, '-infinity'), nullif(h.period_end, 'infinity'),
         h.hard, h.limit_nanousd, h.spent_nanousd, h.reserved_nanousd, h.presumed_nanousd, h.left_nanousd,
         app_private.usd(h.limit_nanousd), app_private.usd(h.spent_nanousd),
         app_private.usd(h.reserved_nanousd), app_private.usd(h.presumed_nanousd),
         app_private.usd(h.left_nanousd)
  from app_private.llm_headroom(budget_status.tenant_id, pg_catalog.now()) as h;
end
$$;

comment on function app.budget_status is
  'The budgets of a tenant in their current period, in nano-USD and in dollars; total has no bounds (null). '
  'left = limit - spent - reserved - presumed; limit and left are null where a budget is unlimited.';

grant execute on function app.budget_status to holdfast_service, holdfast_worker;
--! EndIncluded app/budget_status.sql
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
      anchor_day = (after).anchor_day,
      presumed_policy = (after).presumed_policy,
      presumed_after = (after).presumed_after,
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
  v_quote  app_private.llm_ask;
begin
  perform app.enter(tenant_id, ticket);

  v_known := app_private.job_run_key_take(tenant_id, idempotency_key, v_run_id,
    pg_catalog.jsonb_build_array('analysis')::text);
  if v_known is null then
    v_quote := app_private.llm_quote(tenant_id, pg_catalog.jsonb_build_object(
      'provider', provider, 'model', model, 'input_tokens_bound', input_tokens_bound,
      'max_output_tokens', max_output_tokens));
    if v_quote.refusal is not null then
      perform app_private.llm_raise(v_quote.refusal, v_quote.detail);
    end if;

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
  rows_swept := app.job_sweep() + app.llm_sweep();
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
  'slots and keys of runs, old keys of reservations, tokens that nobody holds any more. A table that stayed locked for 3 s is left for the next time, with a warning. Each call is one '
  'short transaction: call again while one of its answers is not 0. Safe at any time and by many.';

grant execute on function app.maintain to holdfast_worker, holdfast_ops;
--! EndIncluded app/maintain.sql
--! Included app_private/presumed_check.sql
create or replace function app_private.presumed_check(
  anchor_day integer, presumed_policy text, presumed_after interval) returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  v_wrong text := case
    when coalesce(anchor_day not between 1 and 31, true) then 'anchor_day'
    when coalesce(presumed_policy not in ('hold', 'release_after', 'charge_worst_case'), true)
      then 'presumed_policy'
    when (presumed_policy = 'release_after') <> (presumed_after is not null) then 'presumed_after'
    -- A month or a year has no fixed length.
    when presumed_after < interval '1 minute' or presumed_after > interval '366 days'
      or extract(month from presumed_after) <> 0 or extract(year from presumed_after) <> 0
      then 'presumed_after' end;
begin
  if v_wrong is not null then
    raise exception using
      errcode = 'TN103',
      message = 'tenant_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    =
        'An anchor day is 1 to 31; a policy for PRESUMED holds is hold, release_after or charge_worst_case; release_after, '
        'and it alone, has presumed_after: a minute to 366 days, said in days or less.';
  end if;
end
$$;

comment on function app_private.presumed_check is
  'Raises TN103 unless the months of a tenant may begin then, and its PRESUMED holds end like that.';

grant execute on function app_private.presumed_check to holdfast_system;
--! EndIncluded app_private/presumed_check.sql
--! Included ops/tenants.sql
set local role holdfast_system;

create or replace view ops.tenants as
select t.name as tenant, t.tier, t.status, t.time_zone, t.anchor_day, t.presumed_policy,
       t.presumed_after, t.sample, t.tenant_id, t.created_at
from app.tenants as t
join app.tiers as r on r.tier = t.tier
order by r.rank, t.name;

comment on view ops.tenants is 'Every tenant, by tier; when its months begin, and what becomes of its PRESUMED holds.';

grant select on ops.tenants to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/tenants.sql
--! Included ops/tenant_set.sql
set local role holdfast_system;

create or replace function ops.tenant_set(
  tenant text, reason text, plan text default null, tier text default null, unpin boolean default false,
  time_zone text default null, anchor_day integer default null, presumed_policy text default null,
  presumed_after interval default null, dry_run boolean default false)
returns table (setting text, before text, after text, note text)
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
  v_after.presumed_policy := coalesce(tenant_set.presumed_policy, v_before.presumed_policy);
  v_after.presumed_after := coalesce(tenant_set.presumed_after,
    case when v_after.presumed_policy = 'release_after' then v_before.presumed_after end);
  perform app_private.presumed_check(
    coalesce(tenant_set.anchor_day, v_before.anchor_day), v_after.presumed_policy, v_after.presumed_after);
  v_after.anchor_day := coalesce(tenant_set.anchor_day, v_before.anchor_day);
  v_after.tier := (select app_private.tier_of(p, v_before.last_active_at, v_after.pinned_tier, v_now)
                   from app.plans as p where p.plan = v_after.plan);

  if dry_run is not true and pg_catalog.to_jsonb(v_after) <> pg_catalog.to_jsonb(v_before) then
    perform app_private.tenant_change(v_before, v_after, v_now);
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('tenant_set', tenant, reason, pg_catalog.to_jsonb(v_before), pg_catalog.to_jsonb(v_after));
  end if;

  return query
  select a.key, b.value, a.value, case when a.key in ('anchor_day', 'time_zone')
    then 'its budgets may begin another period now, in which nothing is spent yet' end
  from pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(v_after)) as a
  join pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(v_before)) as b on b.key = a.key
  where a.value is distinct from b.value
  order by a.key;
end
$$;

comment on function ops.tenant_set is
  'Changes what is given of a tenant, among all tenants: its plan, the cohort that it is pinned to (tier; unpin lets it follow '
  'from the plan again), its time zone, the anchor_day on which months of its budgets begin, and what becomes of PRESUMED holds '
  '(presumed_policy hold, release_after with presumed_after, or charge_worst_case). Audited; answers what changes. Its turns go '
  'with it: none is taken twice or forgotten, and a daily one moves with the time zone. Another zone or anchor day begins '
  'another period at once, in which nothing is spent yet. A policy is good for holds that are PRESUMED already, too. '
  'dry_run shows it without doing it. Raises TN101, TN103, OP101, OP102.';

grant execute on function ops.tenant_set to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/tenant_set.sql
--! Included app_private/limit_check.sql
create or replace function app_private.limit_check(
  limit_usd numeric, unlimited boolean, period text, scope text, scope_id text) returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  v_wrong text := case
    when unlimited is null then 'unlimited'
    when unlimited <> (limit_usd is null) then 'limit_usd'
    when coalesce(period not in ('day', 'week', 'month', 'total'), true) then 'period'
    when coalesce(scope not in ('tenant', 'api_key', 'user', 'model', 'tag'), true) then 'scope'
    when coalesce((scope = 'tenant') <> (scope_id = '') or pg_catalog.length(scope_id) > 200, true)
      or (scope = 'model' and scope_id !~ '^[^/]+/.') then 'scope_id' end;
begin
  if v_wrong is not null then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    =
        'limit_usd is null only together with unlimited => true. A period is day, week, month or total; a scope is tenant, '
        'api_key, user, model or tag, and all but the tenant have a scope_id of 1 to 200 characters; that of a model is '
        'provider/model.';
  end if;
end
$$;

comment on function app_private.limit_check is 'Raises OP102 unless a budget may have this limit, period and scope.';

grant execute on function app_private.limit_check to holdfast_system;
--! EndIncluded app_private/limit_check.sql
--! Included ops/set_limit.sql
set local role holdfast_system;

create or replace function ops.set_limit(
  tenant text, limit_usd numeric, reason text, period text default 'month', scope text default 'tenant',
  scope_id text default '', unlimited boolean default false, dry_run boolean default false,
  expected_version bigint default null)
returns table (
  tenant_name text, budget_scope text, budget_period text, before_usd numeric, after_usd numeric,
  is_unlimited boolean, version bigint)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_limit     bigint;
  v_before    app.llm_budgets;
  v_after     app.llm_budgets;
begin
  perform app_private.reason_check(reason);
  perform app_private.limit_check(limit_usd, unlimited, period, scope, scope_id);
  v_limit := case when not unlimited then app_private.nanousd(limit_usd) end;

  -- Made first, then locked: of two people who make the same budget, the second sees what the first has made.
  if expected_version is null and not dry_run then
    insert into app.llm_budgets as b (tenant_id, scope, scope_id, period, limit_nanousd, unlimited)
    values (v_tenant_id, set_limit.scope, set_limit.scope_id, set_limit.period, v_limit, set_limit.unlimited)
    on conflict on constraint llm_budgets_once do nothing
    returning b.* into v_after;
  end if;
  if v_after.id is null then
    select b.* into v_before
    from app.llm_budgets as b
    where b.tenant_id = v_tenant_id and b.scope = set_limit.scope and b.scope_id = set_limit.scope_id
      and b.unit = 'usd' and b.period = set_limit.period
    for no key update;
    if expected_version is not null and v_before.version is distinct from expected_version then
      raise exception using
        errcode = 'VR201',
        message = 'optimistic_lock_failed',
        detail  = pg_catalog.jsonb_build_object('expected', expected_version, 'found', v_before.version),
        hint    = 'Someone changed it since you read it. Read ops.budgets again.';
    end if;
  end if;
  if v_before.id is not null and not dry_run then
    update app.llm_budgets as b
    set limit_nanousd = v_limit, unlimited = set_limit.unlimited, version = b.version + 1, updated_at = now()
    where b.tenant_id = v_tenant_id and b.id = v_before.id
    returning b.* into v_after;
  end if;
  if v_after.id is not null then
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('set_limit', tenant, reason,
            case when v_before.id is not null then pg_catalog.to_jsonb(v_before) end,
            pg_catalog.to_jsonb(v_after) || pg_catalog.jsonb_build_object('limit_usd', limit_usd));
  end if;

  return query
  select tenant, concat_ws(' ', scope, nullif(scope_id, '')), period, app_private.usd(v_before.limit_nanousd),
         app_private.usd(v_limit), unlimited, coalesce(v_after.version, v_before.version + 1, 1);
end
$$;

comment on function ops.set_limit is
  'Sets, or makes, what may be spent on LLM calls per period, in US dollars, among all tenants: by the whole tenant, or by '
  'one api_key, user, model (provider/model) or tag of it; audited. A limit of 0 blocks every call; a lower one only stops '
  'new calls; unlimited => true, with limit_usd => null, counts and refuses nothing. Version 1 is a new budget; before_usd is '
  'also null where it was unlimited. dry_run shows the change without making it. Raises TN101, VR201, OP101, OP102.';

grant execute on function ops.set_limit to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/set_limit.sql
--! Included app_private/llm_prices_check.sql
create or replace function app_private.llm_prices_check(prices app.llm_prices[]) returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  v_wrong app.llm_prices;
begin
  select p.* into v_wrong
  from unnest(prices) as p
  where coalesce(
    pg_catalog.length(p.provider) not between 1 and 200
    or pg_catalog.length(p.model) not between 1 and 200
    or p.unit not in ('input', 'cached_input', 'cache_write_5m', 'cache_write_1h', 'output', 'reasoning',
                      'request', 'image', 'tool_call')
    or not p.usd_per_million between 0 and
      case when p.unit in ('request', 'image', 'tool_call') then 1000000000 else 100000 end
    or isempty(p.valid) or p.service_tier not in ('standard', 'priority', 'flex', 'batch')
    or isempty(p.prompt_tokens) or lower(p.prompt_tokens) < 0, true)
  limit 1;
  if found then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('provider', v_wrong.provider, 'model', v_wrong.model,
        'unit', v_wrong.unit, 'usd_per_million', v_wrong.usd_per_million::text),
      hint    =
        'Prices are 0 to 100,000 US dollars per million tokens, and up to 1,000,000,000 per million requests, '
        'images or tool calls; units, service tiers and ranges are those of app.llm_prices.';
  end if;
end
$$;

comment on function app_private.llm_prices_check is 'Raises OP102 unless each of these may be a row of app.llm_prices.';

grant execute on function app_private.llm_prices_check to holdfast_system;
--! EndIncluded app_private/llm_prices_check.sql
--! Included app_private/llm_prices_put.sql
create or replace function app_private.llm_prices_put(wanted app.llm_prices[], at timestamptz) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_rests app.llm_prices[] := '{}'::app.llm_prices[];
  v_old   record;
begin
  for v_old in
    select s as price, g.gone, g.lengths,
           -- What holds only from now on, or later, ends a version; what reaches back says that it was wrong.
           coalesce(lower(g.gone) >= at
             and (lower_inf(s.valid) or lower(s.valid) < lower(g.gone)), false) as ends
    from app.llm_prices as s
    cross join lateral (
      select range_agg(w.valid) as gone, range_agg(w.prompt_tokens) as lengths
      from unnest(wanted) as w
      where w.provider = s.provider and w.model = s.model and w.service_tier = s.service_tier
        and w.unit = s.unit and w.valid && s.valid and w.prompt_tokens && s.prompt_tokens) as g
    where (s.provider, s.model) in (select w.provider, w.model from unnest(wanted) as w)
      and s.corrected_at = 'infinity' and g.gone is not null
  loop
    update app.llm_prices as p
    set valid = case when v_old.ends then tstzrange(lower(p.valid), lower(v_old.gone)) else p.valid end,
        corrected_at = case when v_old.ends then p.corrected_at else at end
    where p.id = (v_old.price).id;

    -- What it said of other times, and of prompts of other lengths, stands.
    v_rests := v_rests || array(
      select pg_catalog.jsonb_populate_record(v_old.price, pg_catalog.jsonb_build_object(
        'id', app_private.uuid_v7(), 'valid', r.valid, 'prompt_tokens', r.lengths, 'known_at', at))
      from (
        select t.valid, (v_old.price).prompt_tokens as lengths
        from unnest(tstzmultirange((v_old.price).valid) - v_old.gone) as t (valid)
        where not (v_old.ends and t.valid << tstzrange(lower(v_old.gone), null))
        union all
        select t.valid, p.lengths
        from unnest(tstzmultirange((v_old.price).valid) * v_old.gone) as t (valid)
        cross join unnest(int8multirange((v_old.price).prompt_tokens) - v_old.lengths) as p (lengths)) as r);
  end loop;

  insert into app.llm_prices (provider, model, service_tier, unit, prompt_tokens, usd_per_million, valid,
    simulated, source, known_at)
  select n.provider, n.model, n.service_tier, n.unit, n.prompt_tokens, n.usd_per_million, n.valid,
         coalesce(n.simulated, false), n.source, at
  from unnest(v_rests || wanted) as n
  where n.usd_per_million is not null;
end
$$;

comment on function app_private.llm_prices_put is
  'Makes these prices the ones that stand: a version that one of them takes the place of from now on ends there; one that was '
  'wrong before is corrected, and what it said of other times and lengths of prompt is said anew. One without a price only '
  'ends what stands. Holds keep the versions that they were made with. The caller has locked the table.';

grant execute on function app_private.llm_prices_put to holdfast_system;
--! EndIncluded app_private/llm_prices_put.sql
--! Included app_private/llm_price_wanted.sql
create or replace function app_private.llm_price_wanted(
  provider text, model text, service_tier text, prompt_tokens int8range, prices jsonb, at timestamptz,
  correct boolean)
returns table (wanted app.llm_prices[], before jsonb)
language plpgsql
stable
set search_path = ''
as $$
begin
  with standing as (
    select s.unit, max(s.usd_per_million) as usd_per_million,
           tstzrange(max(lower(s.valid)), min(upper(s.valid))) as valid
    from app.llm_prices as s
    where s.provider = llm_price_wanted.provider and s.model = llm_price_wanted.model
      and s.service_tier = llm_price_wanted.service_tier and s.prompt_tokens && llm_price_wanted.prompt_tokens
      and s.valid @> at and s.corrected_at = 'infinity'
    group by s.unit
  )
  select array_agg(pg_catalog.jsonb_populate_record(null::app.llm_prices, pg_catalog.jsonb_build_object(
           'provider', llm_price_wanted.provider, 'model', llm_price_wanted.model,
           'service_tier', llm_price_wanted.service_tier, 'unit', u.unit,
           'prompt_tokens', llm_price_wanted.prompt_tokens, 'usd_per_million', prices -> u.unit,
           'valid', case when correct then coalesce(s.valid, i.valid) else tstzrange(at, null) end,
           'source', 'ops: ' || session_user)) order by u.ordinality),
         coalesce(pg_catalog.jsonb_object_agg(u.unit, s.usd_per_million)
           filter (where s.unit is not null), '{}')
  into wanted, before
  from unnest(array['input', 'cached_input', 'cache_write_5m', 'cache_write_1h', 'output', 'reasoning',
                    'request', 'image', 'tool_call']) with ordinality as u (unit)
  left join standing as s on s.unit = u.unit
  left join standing as i on i.unit = 'input';

  perform app_private.llm_prices_check(array(
    select w from unnest(wanted) as w where prices ? w.unit and w.valid is not null));
  if not before ? 'input' and (correct or prompt_tokens <> '[0,)'::int8range) then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object(
        'provider', provider, 'model', model, 'service_tier', service_tier),
      hint    =
        'The model has no price yet: there is nothing to correct, and its first one is for prompts of every length.';
  end if;
  return next;
end
$$;

comment on function app_private.llm_price_wanted is
  'The nine units of a model as a person wants them, as rows of app.llm_prices: from a moment on, or for as long as what '
  'stands applies. One that is not among the prices has none. With it, what stands. Raises OP102.';

grant execute on function app_private.llm_price_wanted to holdfast_system;
--! EndIncluded app_private/llm_price_wanted.sql
--! Included ops/llm_price_set.sql
set local role holdfast_system;

create or replace function ops.llm_price_set(
  provider text, model text, input_usd_per_million numeric, output_usd_per_million numeric, reason text,
  cached_input_usd_per_million numeric default null, dry_run boolean default false,
  cache_write_5m_usd_per_million numeric default null, cache_write_1h_usd_per_million numeric default null,
  reasoning_usd_per_million numeric default null, request_usd_per_million numeric default null,
  image_usd_per_million numeric default null, tool_call_usd_per_million numeric default null,
  service_tier text default 'standard', prompt_tokens_from bigint default 0,
  prompt_tokens_below bigint default null, correct boolean default false)
returns table (unit text, before_usd_per_million numeric, after_usd_per_million numeric)
language plpgsql
security definer  -- prices are for all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_after    constant jsonb := pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
    'input', input_usd_per_million, 'cached_input', cached_input_usd_per_million,
    'cache_write_5m', cache_write_5m_usd_per_million, 'cache_write_1h', cache_write_1h_usd_per_million,
    'output', output_usd_per_million, 'reasoning', reasoning_usd_per_million,
    'request', request_usd_per_million, 'image', image_usd_per_million,
    'tool_call', tool_call_usd_per_million));
  v_wanted   app.llm_prices[];
  v_before   jsonb;
  v_now      timestamptz;
begin
  perform app_private.reason_check(reason);
  if input_usd_per_million is null or output_usd_per_million is null
    or cached_input_usd_per_million > input_usd_per_million
    or not coalesce(prompt_tokens_from >= 0, false) or prompt_tokens_below <= prompt_tokens_from
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      hint    =
        'Input and output have a price, cached input costs no more than input, and prompt_tokens_from is less '
        'than prompt_tokens_below.';
  end if;
  if not dry_run then
    lock table app.llm_prices in share row exclusive mode;
  end if;
  v_now := pg_catalog.clock_timestamp();

  select s.wanted, s.before into v_wanted, v_before
  from app_private.llm_price_wanted(provider, model, service_tier,
    int8range(prompt_tokens_from, prompt_tokens_below), v_after, v_now, correct) as s;
  if not dry_run then
    perform app_private.llm_prices_put(v_wanted, v_now);
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('llm_price_set', provider || '/' || model, reason, nullif(v_before, '{}'),
      v_after || pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
        'service_tier', nullif(service_tier, 'standard'), 'prompt_tokens_from', nullif(prompt_tokens_from, 0),
        'prompt_tokens_below', prompt_tokens_below, 'correct', nullif(correct, false))));
  end if;

  return query
  select w.unit, (v_before ->> w.unit)::numeric, w.usd_per_million
  from unnest(v_wanted) with ordinality as w
  where v_before ? w.unit or v_after ? w.unit
  order by w.ordinality;
end
$$;

comment on function ops.llm_price_set is
  'Sets the price of a model from now on, in US dollars per million of each unit, for all tenants; audited. A unit that is not '
  'named has no price of its own from now on, and what was announced for later no longer stands. prompt_tokens_from and '
  '_below set it for prompts of that length alone. correct => true says that what stands was always wrong: it is replaced for '
  'as long as it was to apply, and holds keep what they were made with. dry_run shows the change without making it. Raises '
  'OP101, OP102.';

grant execute on function ops.llm_price_set to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/llm_price_set.sql
--! Included app_private/llm_prices_read.sql
create or replace function app_private.llm_prices_read(rows jsonb, source text) returns app.llm_prices[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v_prices app.llm_prices[];
  v_gap    text;
begin
  begin
    select array_agg(pg_catalog.jsonb_populate_record(null::app.llm_prices, pg_catalog.jsonb_build_object(
      'provider', r.provider, 'model', r.model, 'unit', r.unit, 'usd_per_million', r.usd_per_million,
      'service_tier', coalesce(r.service_tier, 'standard'),
      'prompt_tokens', int8range(coalesce(r.prompt_tokens_from, 0), r.prompt_tokens_below),
      'valid', tstzrange(r.valid_from, r.valid_until), 'source', source)))
    into v_prices
    from pg_catalog.jsonb_to_recordset(rows) as r (
      provider text, model text, unit text, usd_per_million numeric, service_tier text,
      prompt_tokens_from bigint, prompt_tokens_below bigint, valid_from timestamptz, valid_until timestamptz);
  exception
    when data_exception then null;
  end;
  perform app_private.llm_prices_check(v_prices);

  -- A length of prompt without a price would be priced as another one.
  select concat_ws(' ', p.provider, p.model, p.service_tier, p.unit, p.valid) into v_gap
  from unnest(v_prices) as p
  group by p.provider, p.model, p.service_tier, p.unit, p.valid
  having range_agg(p.prompt_tokens) <> '{[0,)}'::int8multirange
    or sum(coalesce(upper(p.prompt_tokens), 9223372036854775807) - lower(p.prompt_tokens))
      <> 9223372036854775807
  limit 1;
  if v_prices is null or v_gap is not null
    or coalesce(pg_catalog.length(source), 0) not between 1 and 200
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('lengths_of_prompt', v_gap)),
      hint    =
        'rows is an array of {provider, model, unit, usd_per_million} and, where needed, service_tier, '
        'prompt_tokens_from, prompt_tokens_below, valid_from, valid_until; the ranges of prompt_tokens of one '
        'price cover every length once; source is a name of 1 to 200 characters.';
  end if;
  return v_prices;
end
$$;

comment on function app_private.llm_prices_read is
  'The prices of a list, as rows of app.llm_prices; raises OP102 where one cannot be.';

grant execute on function app_private.llm_prices_read to holdfast_system;
--! EndIncluded app_private/llm_prices_read.sql
--! Included app_private/llm_prices_compare.sql
create or replace function app_private.llm_prices_compare(
  wanted app.llm_prices[], at timestamptz, overwrite boolean)
returns table (change text, price app.llm_prices, before_usd_per_million numeric)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select case when m.by_hand and overwrite is not true then 'kept'
              when not m.known then 'new'
              when lower(n.valid) >= at then 'changed'
              else 'corrected' end,
         pg_catalog.jsonb_populate_record(w, pg_catalog.jsonb_build_object('valid', n.valid)),
         u.before
  from unnest(wanted) as w
  cross join lateral (
    select coalesce(bool_or(s.source like 'ops: %' and s.valid && tstzrange(at, null)), false) as by_hand,
           coalesce(bool_or(s.unit = w.unit), false) as known
    from app.llm_prices as s
    where s.provider = w.provider and s.model = w.model and s.service_tier = w.service_tier
      and s.corrected_at = 'infinity') as m
  -- Without a date, a price that differs holds from now on: what was believed of the past stays.
  cross join lateral (
    select case when m.known and lower_inf(w.valid) then w.valid * tstzrange(at, null) else w.valid end
      as valid) as n
  cross join lateral (
    select coalesce(range_agg(s.valid) filter (where s.usd_per_million = w.usd_per_million
             and s.prompt_tokens = w.prompt_tokens
             and not (s.source like 'ops: %' and overwrite is true)) @> n.valid, false) as held,
           max(s.usd_per_million) filter (where s.prompt_tokens && w.prompt_tokens
             and s.valid @> case when n.valid @> at then at else lower(n.valid) end) as before
    from app.llm_prices as s
    where s.provider = w.provider and s.model = w.model and s.service_tier = w.service_tier
      and s.unit = w.unit and s.corrected_at = 'infinity') as u
  where not isempty(n.valid) and not u.held;

  return query
  select 'vanished', s, s.usd_per_million
  from app.llm_prices as s
  where s.valid @> at and s.corrected_at = 'infinity'
    and split_part(s.source, ' ', 1) in (select split_part(w.source, ' ', 1) from unnest(wanted) as w)
    and (s.provider, s.model, s.service_tier, s.unit)
      not in (select w.provider, w.model, w.service_tier, w.unit from unnest(wanted) as w);
end
$$;

comment on function app_private.llm_prices_compare is
  'How a list of prices differs from those that stand: new, changed (from now or a later day on), corrected (from a day that '
  'has passed), kept (a person has set the price of that model; overwrite takes it, an equal one too), vanished (the same '
  'source has it no more; it stands). What is equal is not answered.';

grant execute on function app_private.llm_prices_compare to holdfast_system;
--! EndIncluded app_private/llm_prices_compare.sql
--! Included ops/llm_prices_load.sql
set local role holdfast_system;

create or replace function ops.llm_prices_load(
  rows jsonb, source text, reason text, dry_run boolean default false, overwrite boolean default false)
returns table (
  change text, provider text, model text, service_tier text, unit text, prompt_tokens int8range,
  valid tstzrange, before_usd_per_million numeric, after_usd_per_million numeric)
language plpgsql
security definer  -- prices are for all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_wanted  constant app.llm_prices[] := app_private.llm_prices_read(rows, source);
  v_changes jsonb;
  v_put     app.llm_prices[];
  v_now     timestamptz;
begin
  perform app_private.reason_check(reason);
  if not dry_run then
    lock table app.llm_prices in share row exclusive mode;
  end if;
  v_now := pg_catalog.clock_timestamp();
  select pg_catalog.jsonb_agg(pg_catalog.to_jsonb(c)),
         array_agg(c.price) filter (where c.change in ('new', 'changed', 'corrected'))
  into v_changes, v_put
  from app_private.llm_prices_compare(v_wanted, v_now, overwrite) as c;

  if not dry_run and v_put is not null then
    perform app_private.llm_prices_put(v_put, v_now);
    insert into ops.audit_log (action, subject, reason, after)
    select 'llm_prices_load', source, reason, pg_catalog.jsonb_object_agg(n.change, n.prices)
    from (
      select c.value ->> 'change' as change, pg_catalog.jsonb_agg(t.said order by t.said) as prices
      from pg_catalog.jsonb_array_elements(v_changes) as c
      cross join lateral concat_ws(' ',
        c.value #>> '{price,provider}', c.value #>> '{price,model}', c.value #>> '{price,unit}',
        c.value #>> '{price,prompt_tokens}', c.value ->> 'before_usd_per_million', '->',
        c.value #>> '{price,usd_per_million}') as t (said)
      where c.value ->> 'change' in ('new', 'changed', 'corrected')
      group by 1) as n;
  end if;

  return query
  select c.value ->> 'change', p.provider, p.model, p.service_tier, p.unit, p.prompt_tokens, p.valid,
         (c.value ->> 'before_usd_per_million')::numeric,
         case when c.value ->> 'change' <> 'vanished' then p.usd_per_million end
  from pg_catalog.jsonb_array_elements(v_changes) as c
  cross join lateral pg_catalog.jsonb_populate_record(null::app.llm_prices, c.value -> 'price') as p
  order by 1 desc, 2, 3, 4, 5, 6;
end
$$;

comment on function ops.llm_prices_load is
  'Takes a list of prices, for all tenants; sql/prices/ has such lists. What is equal stays. A price that differs holds from now '
  'on, or from the day that its row names; one whose day has passed corrects what was believed since, and holds are settled '
  'with what they were made with. kept: a person has set the price of that model, and it stays unless overwrite. vanished: '
  'the list has it no more; it stays. Audited; dry_run shows the changes without making them. Raises OP101, OP102.';

grant execute on function ops.llm_prices_load to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/llm_prices_load.sql
--! Included ops/llm_prices.sql
set local role holdfast_system;

create or replace view ops.llm_prices as
with rates as (
  select p.provider, p.model, p.service_tier, p.prompt_tokens, p.unit, trim_scale(p.usd_per_million) as usd,
         upper(p.valid) as until
  from app.llm_prices as p
  where p.valid @> now() and p.corrected_at = 'infinity'
)
select r.provider, r.model,
       concat_ws(' ', nullif(r.service_tier, 'standard'),
         case when lower(r.prompt_tokens) > 0 then '>=' || lower(r.prompt_tokens) end,
         '<' || upper(r.prompt_tokens)) as tier,
       max(r.usd) filter (where r.unit = 'input') as input,
       max(r.usd) filter (where r.unit = 'cached_input') as cached,
       max(r.usd) filter (where r.unit = 'cache_write_5m') as write,
       max(r.usd) filter (where r.unit = 'output') as output,
       concat_ws(', ',
         string_agg(replace(r.unit, 'cache_', '') || ' ' || r.usd, ', ' order by r.unit)
           filter (where r.unit not in ('input', 'cached_input', 'cache_write_5m', 'output')),
         'until ' || to_char(min(r.until), 'YYYY-MM-DD')) as more
from rates as r
group by r.provider, r.model, r.service_tier, r.prompt_tokens
order by r.provider, r.model, r.service_tier, r.prompt_tokens;

comment on view ops.llm_prices is
  'What models cost now, in US dollars per million of each unit. tier is the service tier and the lengths of prompt that a row is '
  'for, write is a cache write of five minutes, more has the other units and the day of a change that is known. Change one '
  'with ops.llm_price_set.';

grant select on ops.llm_prices to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/llm_prices.sql
--! Included app_private/llm_price_override_standing.sql
create or replace function app_private.llm_price_override_standing(
  tenant_id uuid, provider text, model text, unit text, at timestamptz, expected_id uuid)
returns app.llm_price_overrides
language plpgsql
stable
set search_path = ''
as $$
declare
  v_standing app.llm_price_overrides;
begin
  select o.* into v_standing
  from app.llm_price_overrides as o
  where o.tenant_id = llm_price_override_standing.tenant_id
    and o.provider = llm_price_override_standing.provider and o.model = llm_price_override_standing.model
    and o.unit = llm_price_override_standing.unit and o.valid @> at;
  if expected_id is not null and v_standing.id is distinct from expected_id then
    raise exception using
      errcode = 'VR201',
      message = 'optimistic_lock_failed',
      detail  = pg_catalog.jsonb_build_object('expected', expected_id, 'found', v_standing.id),
      hint    = 'Someone changed it since you read it. Read ops.llm_price_overrides again.';
  end if;
  return v_standing;
end
$$;

comment on function app_private.llm_price_override_standing is
  'The override of exactly that provider, model and unit that applies to a tenant at a moment; null where there is none. '
  'Raises VR201 where it is not the expected one.';

grant execute on function app_private.llm_price_override_standing to holdfast_system;
--! EndIncluded app_private/llm_price_override_standing.sql
--! Included ops/llm_price_override_set.sql
set local role holdfast_system;

create or replace function ops.llm_price_override_set(
  tenant text, provider text, reason text, model text default '', unit text default '',
  usd_per_million numeric default null, factor numeric default null, dry_run boolean default false,
  expected_id uuid default null)
returns table (
  override_id uuid, before_usd_per_million numeric, before_factor numeric, after_usd_per_million numeric,
  after_factor numeric)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_now       timestamptz;
  v_before    app.llm_price_overrides;
  v_after     app.llm_price_overrides;
begin
  perform app_private.reason_check(reason);
  if not coalesce((usd_per_million is null) <> (factor is null)
    and (factor is null or factor between 0 and 10)
    and (usd_per_million is null or model <> '' and unit <> '' and usd_per_million between 0 and
      case when unit in ('request', 'image', 'tool_call') then 1000000000 else 100000 end)
    and exists (
      select from app.llm_prices as p
      where p.provider = llm_price_override_set.provider and llm_price_override_set.model in ('', p.model)
        and llm_price_override_set.unit in ('', p.unit) and p.valid @> pg_catalog.clock_timestamp()
        and p.corrected_at = 'infinity'), false)
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      hint    =
        'Give a factor of 0 to 10, or usd_per_million, as much as a price may be, with a model and a unit; app.llm_prices must have a price '
        'that it applies to, for an override changes a price and makes none.';
  end if;
  if not dry_run then
    lock table app.llm_price_overrides in share row exclusive mode;
  end if;
  v_now := pg_catalog.clock_timestamp();
  v_before := app_private.llm_price_override_standing(v_tenant_id, provider, model, unit, v_now, expected_id);

  if not dry_run
    and (v_before.usd_per_million, v_before.factor) is distinct from (usd_per_million, factor)
  then
    update app.llm_price_overrides as o
    set valid = tstzrange(lower(o.valid), v_now)
    where o.tenant_id = v_tenant_id and o.id = v_before.id;
    insert into app.llm_price_overrides as o (
      tenant_id, provider, model, unit, usd_per_million, factor, valid, created_at)
    select v_tenant_id, llm_price_override_set.provider, llm_price_override_set.model,
           llm_price_override_set.unit, llm_price_override_set.usd_per_million, llm_price_override_set.factor,
           tstzrange(v_now, null), v_now
    returning o.* into v_after;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('llm_price_override_set', tenant, reason,
            case when v_before.id is not null then pg_catalog.to_jsonb(v_before) end,
            pg_catalog.to_jsonb(v_after));
  end if;

  return query
  select coalesce(v_after.id, v_before.id), v_before.usd_per_million, v_before.factor, usd_per_million,
         factor;
end
$$;

comment on function ops.llm_price_override_set is
  'Has a tenant pay something else than app.llm_prices from now on, among all tenants: a price of its own for one unit of a '
  'model, or a factor (0.9 is a tenth off, 0 is free) for a unit, a model or all of a provider. Of those that apply to a unit '
  'the one that names the model goes first, then the one that names the unit. Audited; holds keep what they were made '
  'with. expected_id is the override that you saw. dry_run shows the change without making it. Raises TN101, VR201, OP101, '
  'OP102.';

grant execute on function ops.llm_price_override_set to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/llm_price_override_set.sql
--! Included ops/llm_price_override_end.sql
set local role holdfast_system;

create or replace function ops.llm_price_override_end(
  tenant text, provider text, reason text, model text default '', unit text default '',
  dry_run boolean default false, expected_id uuid default null)
returns table (override_id uuid, before_usd_per_million numeric, before_factor numeric, since timestamptz)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_now       timestamptz;
  v_before    app.llm_price_overrides;
begin
  perform app_private.reason_check(reason);
  if not dry_run then
    lock table app.llm_price_overrides in share row exclusive mode;
  end if;
  v_now := pg_catalog.clock_timestamp();
  v_before := app_private.llm_price_override_standing(v_tenant_id, provider, model, unit, v_now, expected_id);
  if v_before.id is null then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('provider', provider, 'model', model, 'unit', unit),
      hint    = 'The tenant has no such override; select * from ops.llm_price_overrides lists them.';
  end if;

  if not dry_run then
    update app.llm_price_overrides as o
    set valid = tstzrange(lower(o.valid), v_now)
    where o.tenant_id = v_tenant_id and o.id = v_before.id;
    insert into ops.audit_log (action, subject, reason, before)
    values ('llm_price_override_end', tenant, reason, pg_catalog.to_jsonb(v_before));
  end if;

  return query select v_before.id, v_before.usd_per_million, v_before.factor, lower(v_before.valid);
end
$$;

comment on function ops.llm_price_override_end is
  'Has a tenant, among all tenants, pay what app.llm_prices says again, from now on; audited. Holds keep what they were made '
  'with. expected_id is the override that you saw. dry_run shows which would end. Raises TN101, VR201, OP101, OP102.';

grant execute on function ops.llm_price_override_end to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/llm_price_override_end.sql
--! Included ops/llm_price_overrides.sql
set local role holdfast_system;

create or replace view ops.llm_price_overrides as
select t.name as tenant, o.provider, o.model, o.unit, o.usd_per_million, o.factor,
       lower(o.valid) as since, o.id
from app.llm_price_overrides as o
join app.tenants as t on t.tenant_id = o.tenant_id
where o.valid @> now()
order by t.name, o.provider, o.model, o.unit;

comment on view ops.llm_price_overrides is
  'What tenants pay instead of app.llm_prices; an empty model or unit is every one. Change one with '
  'ops.llm_price_override_set.';

grant select on ops.llm_price_overrides to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/llm_price_overrides.sql
--! Included ops/llm_write_off.sql
set local role holdfast_system;

create or replace function ops.llm_write_off(reservation_id uuid, reason text, dry_run boolean default false)
returns table (tenant text, model text, amount_usd numeric, status text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_held app.llm_reservations;
begin
  perform app_private.reason_check(reason);
  select r.* into v_held from app.llm_reservations as r where r.id = reservation_id for no key update;
  if not found then
    raise exception using
      errcode = 'LB104',
      message = 'reservation_not_found',
      hint    = 'select * from ops.llm_calls where status = ''PRESUMED'' lists what can be written off.';
  end if;

  if v_held.status <> 'PRESUMED' then
    perform app_private.llm_closed(v_held);
  end if;

  if not dry_run then
    perform app_private.llm_written_off(v_held, llm_write_off.reason);
    insert into ops.audit_log (action, subject, reason, before, after)
    select 'llm_write_off', t.name, llm_write_off.reason, pg_catalog.to_jsonb(v_held),
           pg_catalog.jsonb_build_object('status', 'WRITTEN_OFF')
    from app.tenants as t where t.tenant_id = v_held.tenant_id;
  end if;

  return query
  select t.name, v_held.model, app_private.usd(app_private.llm_rest(v_held, 'PRESUMED')),
         case when dry_run then v_held.status else 'WRITTEN_OFF' end
  from app.tenants as t where t.tenant_id = v_held.tenant_id;
end
$$;

comment on function ops.llm_write_off is
  'Gives back what a PRESUMED hold counts, once the provider''s bill shows that the call was not charged, among all tenants; '
  'audited. dry_run shows it without doing it. Raises LB104, LB201 for a hold that is not PRESUMED, OP101.';

grant execute on function ops.llm_write_off to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/llm_write_off.sql
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
  select trim_scale(sum(v.estimated_cost_nanousd) * 0.000000001) as reserved,
         trim_scale(sum(v.cost_nanousd) * 0.000000001) as settled
  from app.llm_reservations as v
  where v.tenant_id = t.tenant_id and v.run_id = r.id and v.status <> 'RELEASED') as m on true
left join lateral (
  select min(trim_scale((coalesce(g.limit_nanousd, 'infinity'::numeric)
           - coalesce(p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd, 0))
           * 0.000000001)) as left_usd
  from app.llm_budgets as g
  cross join lateral app_private.period_bounds(g.period, t.time_zone, now(), t.anchor_day) as e
  left join app.llm_budget_periods as p
    on p.tenant_id = g.tenant_id and p.budget_id = g.id and p.period_start = e.period_start
  where g.tenant_id = t.tenant_id and g.scope = 'tenant') as b on true
order by x.rank, t.name;

comment on view ops.report is
  'One line per tenant: cost lines and how many are flagged, open findings, what they could save a month, what the '
  'last analysis reserved and cost in US dollars, what is left of the tightest budget of the whole tenant (Infinity where '
  'it is unlimited), and how it ended: without names what had failed before it. running: an analysis is due or on its way. '
  'saving is null where unknown.';

grant select on ops.report to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/report.sql
--! Included ops/report_text.sql
set local role holdfast_system;

create or replace view ops.report_text as
select r.tenant,
       r.tier || ' ' || round(extract(epoch from t.every) / 3600, 1)::float8 || ' h' as tier,
       to_char(r.rows, 'FM999,999,999,999') as rows,
       to_char(r.flags, 'FM999,999,999,999') as flags,
       r.findings::text as findings,
       coalesce(to_char(r.saving, 'FM999,999,999,999,990') || ' ' || r.currency, '-') as saving,
       '$' || to_char(r.reserved, 'FM999,999,990.0000') as reserved,
       '$' || to_char(r.settled, 'FM999,999,990.0000') as settled,
       case when r."left" is null then 'no budget' when r."left" = 'infinity' then 'unlimited'
         else '$' || to_char(r."left", 'FM999,999,990.00') end as "left",
       r.state
from ops.report as r
join app.tiers as t on t.tier = r.tier
order by t.rank, r.tenant;

comment on view ops.report_text is 'ops.report as people read it: thousands, currencies, dollars.';

grant select on ops.report_text to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/report_text.sql
--! Included ops/budgets.sql
set local role holdfast_system;

create or replace view ops.budgets as
select t.name as tenant, b.scope, b.scope_id, b.period,
       trim_scale(b.limit_nanousd * 0.000000001) as limit_usd,
       trim_scale(coalesce(p.spent_nanousd, 0) * 0.000000001) as spent_usd,
       trim_scale(coalesce(p.reserved_nanousd, 0) * 0.000000001) as reserved_usd,
       trim_scale(coalesce(p.presumed_nanousd, 0) * 0.000000001) as presumed_usd,
       trim_scale((b.limit_nanousd - coalesce(p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd, 0))
         * 0.000000001) as left_usd,
       b.hard and not b.unlimited as hard_limit, nullif(s.period_end, 'infinity') as period_end, b.version,
       case when b.period = 'month' then trim_scale(b.limit_nanousd * 0.000000001) end as monthly_limit_usd,
       case when b.period = 'month' then trim_scale(coalesce(p.spent_nanousd, 0) * 0.000000001) end
         as current_month_usage_usd,
       b.created_at, b.updated_at
from app.llm_budgets as b
join app.tenants as t on t.tenant_id = b.tenant_id
cross join lateral app_private.period_bounds(b.period, t.time_zone, now(), t.anchor_day) as s
left join app.llm_budget_periods as p
  on p.tenant_id = b.tenant_id and p.budget_id = b.id and p.period_start = s.period_start
order by t.name, b.scope <> 'tenant', b.scope, b.scope_id, b.period;

comment on view ops.budgets is
  'Every budget in the period that runs now, in US dollars; left = limit - spent - reserved - presumed, below zero after a cut. '
  'An unlimited budget refuses nothing: its limit and what is left are null, and hard_limit is false. total has no end. '
  'monthly_limit_usd and current_month_usage_usd (what is spent) are the same numbers under other names, for months '
  'alone. Change one with ops.set_limit.';

grant select on ops.budgets to holdfast_ops;

set local role holdfast_owner;

-- Functions of a view run as who asks, not as who owns it.
grant execute on function app_private.period_bounds, app_private.period_begin, app_private.month_anchor
  to holdfast_ops;
--! EndIncluded ops/budgets.sql
--! Included ops/llm_calls.sql
set local role holdfast_system;

create or replace view ops.llm_calls as
select t.name as tenant, r.status, r.model,
       trim_scale(r.estimated_cost_nanousd * 0.000000001) as reserved_usd,
       case when r.cost_nanousd is not null or r.settled_nanousd > 0
         then trim_scale(r.settled_nanousd * 0.000000001) end as cost_usd,
       coalesce(u.input_tokens, (r.used ->> 'input')::bigint) as input_tokens,
       coalesce(u.output_tokens, (r.used ->> 'output')::bigint) as output_tokens,
       r.reason, u.simulated, r.created_at, r.run_id, r.id
from app.llm_reservations as r
join app.tenants as t on t.tenant_id = r.tenant_id
left join lateral (
  -- ADJUSTED, which comes after a PARTIAL, has all the tokens of the call.
  select l.input_tokens, l.output_tokens, l.simulated
  from app.llm_usage as l
  where l.tenant_id = r.tenant_id and l.reservation_id = r.id
  order by l.status
  limit 1) as u on true
order by r.id desc;

comment on view ops.llm_calls is
  'Every call to a model, newest first: what was held before it, and what it cost, or has cost so far where it streams.';

grant select on ops.llm_calls to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/llm_calls.sql
--! Included ops/reservations_presumed.sql
set local role holdfast_system;

create or replace view ops.reservations_presumed as
select t.name as tenant, r.model,
       trim_scale(greatest(0, r.estimated_cost_nanousd - r.settled_nanousd) * 0.000000001) as amount_usd,
       date_trunc('second', r.since) as since,
       app_private.ago(pg_catalog.clock_timestamp() - r.since) as age, r.reason,
       t.presumed_policy as policy,
       case t.presumed_policy
         when 'release_after' then r.since + t.presumed_after
         when 'charge_worst_case' then greatest(r.since, e.period_end) end as policy_ends_at,
       case r.status
         when 'PRESUMED' then pg_catalog.format('select * from ops.llm_write_off(%L, reason => ''…'')', r.id)
         else 'select * from app.llm_expire()' end as fix,
       r.provider, r.run_id, r.id
from (
  select x.*, x.presumed_at as since
  from app.llm_reservations as x
  where x.status = 'PRESUMED'
  union all
  select x.*, x.expires_at
  from app.llm_reservations as x
  where x.status = 'RESERVED' and x.expires_at < pg_catalog.clock_timestamp()) as r
join app.tenants as t on t.tenant_id = r.tenant_id
cross join lateral (
  select max(p.period_end) filter (where p.period_end <> 'infinity') as period_end
  from app.llm_reservation_budgets as h
  join app.llm_budget_periods as p
    on p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start
  where h.tenant_id = r.tenant_id and h.reservation_id = r.id) as e
order by r.since, r.id;

comment on view ops.reservations_presumed is
  'Holds whose outcome is unknown, the oldest first: what still counts against the budget, since when and why, when the '
  'policy of the tenant ends it (null: never), and what to type when the bill shows that the call was not charged. A call that '
  'was charged is settled by POST /v1/reservations/:id/settle, however late. A hold that is past its time is shown before '
  'app.llm_expire has come to it.';

grant select on ops.reservations_presumed to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/reservations_presumed.sql
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
  ('ops.reservations_presumed', 'select * from ops.reservations_presumed',
   'Holds whose outcome is unknown, and what to type: nothing is given back by itself.'),
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
  ('ops.set_limit',
   'select * from ops.set_limit(tenant => ''Acme'', limit_usd => 50, reason => ''asked for more'')',
   'Change or make a budget: of a tenant, or of one api_key, user, model or tag; per day, week, month, in total; or unlimited.'),
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
   'select * from ops.tenant_set(tenant => ''Acme'', plan => ''pro'', anchor_day => 15, presumed_policy => ''charge_worst_case'', reason => ''they upgraded'', dry_run => true)',
   'Change the plan, cohort, zone or anchor day of a tenant, or what becomes of its PRESUMED holds.'),
  ('ops.schedule_set',
   'select * from ops.schedule_set(tenant => ''Acme'', daily_at => ''06:00'', reason => ''as agreed'', dry_run => true)',
   'Give a tenant turns of its own.'),
  ('ops.llm_price_set',
   'select * from ops.llm_price_set(''api.example.com'', ''model'', 0.4, 1.6, reason => ''price list of May'')',
   'Set the price of a model.'),
  ('ops.llm_prices',    'select * from ops.llm_prices limit 10', 'What models cost now, per million of each unit.'),
  ('ops.llm_prices_load',
   'select l.* from ops.llm_prices_load(''[{"provider": "api.example.com", "model": "new", "unit": "input", "usd_per_million": 1}]'', source => ''price list'', reason => ''May'', dry_run => true) as l',
   'Take a list of prices; sql/prices/ has one of many models.'),
  ('ops.llm_price_override_set',
   'select * from ops.llm_price_override_set(tenant => ''Acme'', provider => ''offline'', factor => 0.9, reason => ''as agreed'', dry_run => true)',
   'Have a tenant pay another price, or a share of it.'),
  ('ops.llm_price_overrides', 'select * from ops.llm_price_overrides', 'What tenants pay instead of the price.'),
  ('ops.llm_price_override_end',
   'select e.* from ops.llm_price_overrides as o, ops.llm_price_override_end(o.tenant, o.provider, ''over'', o.model, o.unit, dry_run => true) as e',
   'Have a tenant pay the price again.'),
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
    'app.job_sweep', 'app.llm_check', 'app.llm_expire', 'app.llm_presumed_resolve', 'app.llm_sweep', 'app.schedule_tick',
    'app.tenant_find', 'app.tiers_derive', 'app.tokens_repair', 'app.worker_beat', 'app.worker_seen', 'app.worker_stop',
    'app.workers_reap', 'app_private.partition_needed', 'app_private.tenant_check', 'ops.cost_source_drop',
    'ops.cost_source_set', 'ops.job_cancel', 'ops.job_discard', 'ops.job_enqueue',
    'ops.job_kind_set', 'ops.job_pause', 'ops.job_replay', 'ops.job_resume', 'ops.job_show',
    'ops.llm_price_override_end', 'ops.llm_price_override_set', 'ops.llm_price_set', 'ops.llm_prices_load',
    'ops.llm_write_off', 'ops.retention_set', 'ops.schedule_set', 'ops.set_limit', 'ops.tenant_add', 'ops.tenant_set',
    'ops.tier_set', 'ops.why_waiting')
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
