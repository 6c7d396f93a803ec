create table if not exists app.schedules (
  tier        text        not null,
  shard       smallint    not null,
  next_run_at timestamptz not null default now(),
  last_slot   bigint,

  constraint schedules_pkey primary key (tier, shard),
  constraint schedules_tier_fkey foreign key (tier) references app.tiers (tier) on delete restrict,
  constraint schedules_shard_known check (shard between 0 and 15)
);

create index if not exists schedules_next_run_at_idx on app.schedules (next_run_at);

comment on table app.schedules is
  'When each tier and shard is due. One row stands for all its tenants, so that a tick locks few rows.';
comment on column app.schedules.tier is 'The cohort; app.tiers says how often.';
comment on column app.schedules.shard is
  '0 to 15; shards of a tier are due one after the other, a sixteenth of its period apart.';
comment on column app.schedules.next_run_at is 'Due from this moment on.';
comment on column app.schedules.last_slot is 'The last turn that was taken; null before the first.';

insert into app.schedules (tier, shard)
select t.tier, s.shard from app.tiers as t cross join generate_series(0, 15) as s (shard)
on conflict on constraint schedules_pkey do nothing;

grant select, update on app.schedules to holdfast_system;
