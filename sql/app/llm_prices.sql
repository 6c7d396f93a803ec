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
