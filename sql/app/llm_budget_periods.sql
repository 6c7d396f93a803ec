-- Nothing has a foreign key to this table: its rows are hot, and key-share locks on them cost most of the throughput.
create table if not exists app.llm_budget_periods (
  tenant_id              uuid        not null,
  budget_id              uuid        not null,
  period_start           timestamptz not null,
  period_end             timestamptz not null,
  reserved_nanousd       bigint      not null default 0,
  presumed_nanousd       bigint      not null default 0,
  spent_nanousd          bigint      not null default 0,
  admitted_limit_nanousd bigint      not null default 0,

  constraint llm_budget_periods_pkey primary key (tenant_id, budget_id, period_start),
  constraint llm_budget_periods_budget_fkey foreign key (tenant_id, budget_id)
    references app.llm_budgets (tenant_id, id) on delete restrict,
  constraint llm_budget_periods_not_empty check (period_end > period_start),
  constraint llm_budget_periods_reserved_not_negative check (reserved_nanousd >= 0),
  constraint llm_budget_periods_presumed_not_negative check (presumed_nanousd >= 0),
  constraint llm_budget_periods_spent_not_negative check (spent_nanousd >= 0)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 500);

comment on table app.llm_budget_periods is
  'One row per budget and period, made when it is first used, so that nothing ever resets. '
  'spent + reserved + presumed never passes the limit at an admission.';
comment on column app.llm_budget_periods.tenant_id is 'Whose money it is.';
comment on column app.llm_budget_periods.budget_id is 'The budget.';
comment on column app.llm_budget_periods.period_start is 'First moment of the period; -infinity for total.';
comment on column app.llm_budget_periods.period_end is 'First moment after the period; infinity for total.';
comment on column app.llm_budget_periods.reserved_nanousd is 'Held for calls that are under way, in nano-USD.';
comment on column app.llm_budget_periods.presumed_nanousd is
  'Held for calls whose outcome is unknown and may have been billed, in nano-USD.';
comment on column app.llm_budget_periods.spent_nanousd is 'What settled calls cost, in nano-USD.';
comment on column app.llm_budget_periods.admitted_limit_nanousd is
  'The highest limit under which a call was admitted, in nano-USD; llm_check compares with it.';

call app_private.isolate('app.llm_budget_periods', for_system => true);
call app_private.fence('app.llm_budget_periods');
grant select, update on app.llm_budget_periods to holdfast_system;
