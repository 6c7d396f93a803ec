create table if not exists app.tiers (
  tier        text     not null,
  every       interval not null,
  rank        smallint not null,
  description text     not null,

  constraint tiers_pkey primary key (tier),
  constraint tiers_every_positive check (every >= interval '1 minute'),
  constraint tiers_rank_once unique (rank)
);

comment on table app.tiers is
  'The cohorts of the scheduler, and how often a tenant of each is analysed. An operator may change the rows.';
comment on column app.tiers.tier is 'The name of the cohort.';
comment on column app.tiers.every is 'The time between two analyses of one tenant.';
comment on column app.tiers.rank is 'Which tier goes first when many are due; 1 is first.';
comment on column app.tiers.description is 'Who belongs here.';

insert into app.tiers (tier, every, rank, description)
values
  ('HIGH_VALUE', interval '1 hour',  1, 'Enterprise and pro plans.'),
  ('ACTIVE',     interval '3 hours', 2, 'Tenants that use the product.'),
  ('DORMANT',    interval '6 hours', 3, 'No activity for a week.')
on conflict on constraint tiers_pkey do nothing;

grant select on app.tiers to holdfast_system, holdfast_tenant;
