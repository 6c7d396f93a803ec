--! Message: tenants read behind fences

-- The seal becomes a part of its callers' expressions; what a table costs under isolation falls by a third.
drop function if exists app_private.seal(text);
--!include app_private/seal.sql
--!include app_private/current_tenant_id.sql
--!include app_private/require.sql
--!include app/enter.sql

-- The tenant role reads through fences.
--!include app_private/schema.sql
--!include app_private/fence.sql
call app_private.fence('app.tenants');
call app_private.fence('app.events');
call app_private.fence('app.cost_imports');
call app_private.fence('app.cost_lines');
call app_private.fence('app.cost_daily');
call app_private.fence('app.cost_periods');
call app_private.fence('app.llm_budgets');
call app_private.fence('app.llm_budget_periods');
call app_private.fence('app.llm_reservations');
call app_private.fence('app.llm_usage');
call app_private.fence('app.job_runs');
call app_private.fence('app.job_run_events');
call app_private.fence('app.analyses');
call app_private.fence('app.findings');
drop view app.cost_lines_current, app.cost_daily_current;
--!include app/cost_lines_current.sql
--!include app/cost_daily_current.sql
--!include tenant/cost_lines_current.sql
--!include tenant/cost_daily_current.sql

-- Tickets: bound to a backend unless their key says otherwise; keys are retired; people become a tenant with one.
alter table app_private.ticket_keys add column if not exists binding text not null default 'backend';
alter table app_private.ticket_keys drop constraint if exists ticket_keys_binding_known;
alter table app_private.ticket_keys
  add constraint ticket_keys_binding_known check (binding in ('backend', 'none'));
--!include app_private/ticket_keys.sql
drop function if exists app_private.ticket_tenant(text);
--!include app_private/ticket_tenant.sql
--!include app_private/ticket_make.sql
--!include app/error_codes.sql
--!include app/enter.sql
--!include app/ticket_binding.sql
--!include app/tenant_find.sql
--!include ops/become.sql
--!include ops/enter.sql
--!include app_private/ticket_key_missing.sql
--!include ops/ticket_keys.sql
--!include ops/ticket_key_set.sql
--!include ops/ticket_key_retire.sql
--!include ops/help.sql

-- Another tenant's run is no run: found by neither a claim nor a hold.
--!include app/job_claim.sql
--!include app/llm_reserve.sql

-- What one tenant locks or chooses must not stop another, nor tell of it.
--!include app_private/refuse.sql
--!include app/cost_import_publish.sql
--!include app/cost_import_sweep.sql
--!include app/llm_expire.sql
--!include app/maintain.sql

-- The lint: what can be reached without a ticket, and what all tenants share.
--!include app_private/lint_isolation.sql
--!include app_private/lint_rights.sql
--!include app_private/doctor_exposed.sql
--!include app_private/lint_reach.sql
--!include app_private/lint_functions.sql
--!include app_private/lint_names.sql
--!include app_private/lint.sql
--!include app_private/schema_snapshot.sql

-- The doctor: whether tenants are kept apart here as they should be.
--!include app_private/doctor_role_settings.sql
--!include app_private/doctor_checks.sql
--!include app_private/doctor_server.sql
--!include app_private/doctor_roles.sql
--!include app_private/doctor_memberships.sql
--!include app_private/doctor_settings.sql
--!include app_private/doctor_owners.sql
--!include app_private/doctor_isolation.sql
--!include app_private/doctor_rights.sql
--!include app_private/doctor_places.sql
--!include app_private/doctor_function_groups.sql
--!include app_private/doctor_functions.sql
--!include app_private/doctor_languages.sql
--!include app_private/doctor_extensions.sql
--!include app_private/doctor_ddl.sql
--!include app_private/doctor_upkeep.sql
--!include ops/doctor.sql
