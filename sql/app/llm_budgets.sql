create table if not exists app.llm_budgets (
  tenant_id     uuid        not null,
  id            uuid        not null default app_private.uuid_v7(),
  scope         text        not null default 'tenant',
  scope_id      text        not null default '',
  period        text        not null default 'month',
  limit_nanousd bigint,
  hard          boolean     not null default true,
  version       bigint      not null default 1,
  created_at    timestamptz not null default now(),
  updated_at    timestamptz not null default now(),
  unlimited     boolean     not null default false,
  unit          text        not null default 'usd',

  constraint llm_budgets_pkey primary key (tenant_id, id),
  constraint llm_budgets_once unique (tenant_id, scope, scope_id, unit, period),
  constraint llm_budgets_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint llm_budgets_scope_known check (scope in ('tenant', 'api_key', 'user', 'model', 'tag')),
  constraint llm_budgets_scope_id_iff_not_tenant
    check ((scope = 'tenant') = (scope_id = '') and length(scope_id) <= 200),
  constraint llm_budgets_period_known check (period in ('day', 'week', 'month', 'total')),
  constraint llm_budgets_limit_not_negative check (limit_nanousd >= 0),
  constraint llm_budgets_limit_iff_limited check (unlimited = (limit_nanousd is null)),
  constraint llm_budgets_unit_known check (unit in ('usd')),
  constraint llm_budgets_hard_for_now check (hard)
);

comment on table app.llm_budgets is
  'How much a tenant may spend on LLM calls per period. No row: every call is refused. 0: '
  'every call is refused, free ones too.';
comment on column app.llm_budgets.tenant_id is 'Whose budget it is.';
comment on column app.llm_budgets.id is 'The budget.';
comment on column app.llm_budgets.scope is
  'What it limits: the whole tenant, or the calls of one api_key, user, model or tag.';
comment on column app.llm_budgets.scope_id is 'Which one of that scope; empty for the tenant. A model is provider/model.';
comment on column app.llm_budgets.period is 'day, week, month (in the time zone of the tenant) or total.';
comment on column app.llm_budgets.limit_nanousd is
  'The limit per period, in nano-USD (10^-9 US dollars); null where it is unlimited.';
comment on column app.llm_budgets.hard is 'A hard budget refuses; there is no other kind yet.';
comment on column app.llm_budgets.version is 'Rises by one with each change by a person.';
comment on column app.llm_budgets.created_at is 'When it was made.';
comment on column app.llm_budgets.updated_at is 'When a person last changed it.';

comment on column app.llm_budgets.unlimited is 'Calls are counted and never refused: said by a person, with a reason.';
comment on column app.llm_budgets.unit is 'What is counted: usd.';

call app_private.isolate('app.llm_budgets', for_system => true);
call app_private.fence('app.llm_budgets');
grant select, insert, update on app.llm_budgets to holdfast_system;
