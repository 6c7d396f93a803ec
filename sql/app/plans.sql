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
