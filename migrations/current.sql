-- Tickets: bound to a backend unless their key says otherwise; keys are retired; people become a tenant with one.
alter table app_private.ticket_keys add column if not exists binding text not null default 'backend';
alter table app_private.ticket_keys drop constraint if exists ticket_keys_binding_known;
alter table app_private.ticket_keys
  add constraint ticket_keys_binding_known check (binding in ('backend', 'none'));
--!include app_private/ticket_keys.sql
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

-- The lint: what can be reached without a ticket, and what all tenants share.
--!include app_private/lint_isolation.sql
--!include app_private/lint_rights.sql
--!include app_private/lint_reach.sql
--!include app_private/lint_functions.sql
--!include app_private/lint.sql
