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
