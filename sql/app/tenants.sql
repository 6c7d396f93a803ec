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
