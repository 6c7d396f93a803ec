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
