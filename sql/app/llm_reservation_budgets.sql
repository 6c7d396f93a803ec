create table if not exists app.llm_reservation_budgets (
  tenant_id      uuid        not null,
  reservation_id uuid        not null,
  budget_id      uuid        not null,
  period_start   timestamptz not null,

  constraint llm_reservation_budgets_pkey primary key (tenant_id, reservation_id, budget_id),
  constraint llm_reservation_budgets_budget_fkey foreign key (tenant_id, budget_id)
    references app.llm_budgets (tenant_id, id) on delete restrict
) partition by range (reservation_id);

create index if not exists llm_reservation_budgets_budget_id_idx
  on app.llm_reservation_budgets (tenant_id, budget_id, period_start);

comment on table app.llm_reservation_budgets is
  'Which budgets, and which period of each, a reservation holds. A hold belongs for ever to the period it was made in.';
comment on column app.llm_reservation_budgets.tenant_id is 'Whose money it is.';
comment on column app.llm_reservation_budgets.reservation_id is 'The reservation.';
comment on column app.llm_reservation_budgets.budget_id is 'A budget that it holds.';
comment on column app.llm_reservation_budgets.period_start is 'The period of that budget.';

call app_private.isolate('app.llm_reservation_budgets', for_system => true);
grant select on app.llm_reservation_budgets to holdfast_system;
