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
