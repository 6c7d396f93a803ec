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

  constraint llm_prices_pkey primary key (id),
  constraint llm_prices_unit_known check (unit in ('input', 'cached_input', 'output')),
  constraint llm_prices_usd_per_million_sane check (usd_per_million >= 0 and usd_per_million <= 100000),
  constraint llm_prices_valid_not_empty check (not isempty(valid)),
  constraint llm_prices_one_at_a_time
    exclude using gist (provider with =, model with =, unit with =, valid with &&)
);

comment on table app.llm_prices is
  'What a million tokens of a model cost, and from when to when. A model without a price is refused, never free.';
comment on column app.llm_prices.id is 'The version that a reservation pins.';
comment on column app.llm_prices.provider is 'Who bills: offline, or the host of LLM_BASE_URL.';
comment on column app.llm_prices.model is 'The model as it is asked for.';
comment on column app.llm_prices.unit is 'The kind of token: input, cached_input or output.';
comment on column app.llm_prices.usd_per_million is 'US dollars per million tokens.';
comment on column app.llm_prices.valid is 'When the price applies; versions of one model and unit cannot overlap.';
comment on column app.llm_prices.simulated is 'True where nobody is billed: the offline analyst.';
comment on column app.llm_prices.source is 'Where the price was read, or who set it.';
comment on column app.llm_prices.known_at is 'When we learned of it.';

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
