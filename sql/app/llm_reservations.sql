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
