-- Who may do what by default: nobody. Roles come from roles.sql, before this file.
create schema if not exists app;
create schema if not exists app_private;
create schema if not exists ops;
create schema if not exists tenant;

comment on schema app is 'The contract: tables under row security, and the functions that the shell calls.';
comment on schema app_private is
  'Internals: tickets, isolation, triggers. Nobody calls them but what is granted by name.';
comment on schema tenant is 'What the tenant role reads: its own rows of the tables of app, behind a fence.';
comment on schema ops is 'For people in psql: views to \watch and functions. Start with: select * from ops.help;';

alter default privileges revoke execute on functions from public;
set local role holdfast_system;
alter default privileges revoke execute on functions from public;
set local role holdfast_owner;

grant usage on schema app
  to holdfast_service, holdfast_worker, holdfast_tenant, holdfast_system, holdfast_ops;
grant usage on schema app_private
  to holdfast_tenant, holdfast_system, holdfast_service, holdfast_worker, holdfast_ops;
grant usage on schema tenant to holdfast_tenant;
grant usage on schema ops to holdfast_ops, holdfast_system, holdfast_metrics;
grant create on schema app, app_private, ops to holdfast_system;

create extension if not exists btree_gist with schema public;
