--! Previous: sha1:57e40c79fa36eba266a29aaaae395a8fb2382fb1
--! Hash: sha1:424dcfdc2272dc40f525255e68a66cab73d930d8
--! Message: tenants read behind fences

-- The seal becomes a part of its callers' expressions; what a table costs under isolation falls by a third.
drop function if exists app_private.seal(text);
--! Included app_private/seal.sql
create or replace function app_private.seal(secret bytea, tenant text) returns text
language sql
stable
parallel restricted
return pg_catalog.encode(pg_catalog.sha256(
  secret || pg_catalog.convert_to(tenant, 'UTF8')
  || pg_catalog.int4send(pg_catalog.pg_backend_pid())
  || pg_catalog.timestamptz_send(pg_catalog.transaction_timestamp()) || secret), 'hex');

comment on function app_private.seal is
  'What only this server can compute, for this tenant, backend and transaction: hex of 32 bytes. Its callers read the '
  'secret themselves, so that it becomes a part of their own expressions: a call would cost twice the hash.';
--! EndIncluded app_private/seal.sql
--! Included app_private/current_tenant_id.sql
create or replace function app_private.current_tenant_id() returns uuid
language plpgsql
stable
parallel restricted
security definer  -- the seal secret is readable by the owner alone
set search_path = ''
as $$
declare
  v_setting text := pg_catalog.current_setting('app.tenant', true);
  v_tenant  text := pg_catalog.left(v_setting, 36);
  v_secret  bytea;
begin
  -- No statement may use the secret: its plan could hold it, and debug_print_plan would print it.
  select s.secret into v_secret from app_private.seal_secret as s;

  if (v_setting = v_tenant || '.' || app_private.seal(v_secret, v_tenant)) is not true then
    perform app_private.refuse('no tenant was entered in this transaction');
  end if;
  return v_tenant::uuid;
end
$$;

comment on function app_private.current_tenant_id is
  'The tenant of this transaction. Raises RL101 when none was entered. Runs once for each table of each statement. '
  'Never make a function that returns it immutable.';

grant execute on function app_private.current_tenant_id to holdfast_tenant, holdfast_owner, holdfast_system;
--! EndIncluded app_private/current_tenant_id.sql
--! Included app_private/require.sql
create or replace function app_private.require() returns boolean
language plpgsql
immutable  -- on purpose: the planner then runs it even where no row will be read, and keeps only "true"
parallel restricted
set search_path = ''
as $$
begin
  return app_private.current_tenant_id() is not null;
end
$$;

comment on function app_private.require is
  'True, or raises RL101 when no tenant was entered in this transaction. The first half of every policy.';

grant execute on function app_private.require to holdfast_tenant, holdfast_owner, holdfast_system;
--! EndIncluded app_private/require.sql
--! Included app/enter.sql
create or replace function app.enter(tenant_id uuid, ticket text) returns void
language plpgsql
security definer  -- the keys that verify a ticket are readable by the owner alone
set search_path = ''
as $$
declare
  v_before text := pg_catalog.current_setting('app.tenant', true);
  v_tenant text := enter.tenant_id::text;
  v_secret bytea;
begin
  if app_private.ticket_tenant(ticket)::text is distinct from v_tenant then
    perform app_private.refuse('the ticket is for another tenant');
  end if;

  select s.secret into v_secret from app_private.seal_secret as s;

  -- A value without its seal is nobody's tenant: left by a session, it must not shut the connection to all others.
  if v_before <> ''
    and pg_catalog.left(v_before, 36) <> v_tenant
    and v_before = pg_catalog.left(v_before, 36) || '.'
      || app_private.seal(v_secret, pg_catalog.left(v_before, 36))
  then
    perform app_private.refuse('one transaction, one tenant');
  end if;

  -- No statement may use the secret: its plan could hold it, and debug_print_plan would print it.
  if pg_catalog.set_config(
      'app.tenant', v_tenant || '.' || app_private.seal(v_secret, v_tenant), true) is null
    or pg_catalog.set_config('row_security', 'on', true) is null
    -- The plans of what follows are made with the statistics of all tenants.
    or pg_catalog.set_config('debug_print_plan', 'off', true) is null
  then
    perform app_private.refuse('the tenant could not be set');
  end if;

  if not exists (select from app.tenants as t
    where t.tenant_id = enter.tenant_id and t.status = 'ACTIVE')
  then
    perform app_private.refuse('the tenant is not active');
  end if;
end
$$;

comment on function app.enter is
  'Verifies the ticket and makes the tenant the one of this transaction. Raises RL101 for a ticket that is malformed, '
  'forged, expired or of another tenant, for a second tenant, and for a tenant that is not active.';

grant execute on function app.enter to holdfast_service, holdfast_worker, holdfast_tenant, holdfast_ops;
--! EndIncluded app/enter.sql

-- The tenant role reads through fences.
--! Included app_private/schema.sql
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
--! EndIncluded app_private/schema.sql
--! Included app_private/fence.sql
create or replace procedure app_private.fence(target regclass)
language plpgsql
set search_path = ''
as $$
declare
  v_name  constant name := (select c.relname from pg_catalog.pg_class as c where c.oid = target);
  v_fence constant regclass := pg_catalog.to_regclass(pg_catalog.format('tenant.%I', v_name));
begin
  -- Equal already: a re-run must not wait for the readers of the fence.
  if exists (
      select from pg_catalog.pg_class as c
      where c.oid = v_fence
        and c.reloptions = '{security_barrier=true}'
        and pg_catalog.pg_get_viewdef(c.oid) ~ '\sOFFSET 0;$'
        and pg_catalog.has_table_privilege('holdfast_tenant', c.oid, 'select'))
    and not pg_catalog.has_table_privilege('holdfast_tenant', target, 'select')
    and pg_catalog.obj_description(v_fence, 'pg_class')
      = 'Own rows. ' || pg_catalog.obj_description(target, 'pg_class')
    and (
      select pg_catalog.count(*) = 0
      from (select a.attname, a.atttypid from pg_catalog.pg_attribute as a
            where a.attrelid = v_fence and a.attnum > 0) as f
      full join (select a.attname, a.atttypid from pg_catalog.pg_attribute as a
                 where a.attrelid = target and a.attnum > 0 and not a.attisdropped) as t
        using (attname, atttypid)
      where f is null or t is null)
  then
    return;
  end if;

  -- OFFSET keeps what the reader asks for outside; the barrier keeps the statistics of all tenants from its estimates.
  execute pg_catalog.format(
    'create or replace view tenant.%I with (security_barrier = true) as select * from %s offset 0',
    v_name, target);
  execute pg_catalog.format('comment on view tenant.%I is %L', v_name,
    'Own rows. ' || pg_catalog.obj_description(target, 'pg_class'));
  execute pg_catalog.format('grant select on tenant.%I to holdfast_tenant', v_name);
  execute pg_catalog.format('revoke select on %s from holdfast_tenant', target);
end
$$;

comment on procedure app_private.fence is
  'Lets the tenant role read a table through tenant.<its name>, and no other way. Row security alone filters '
  'rows after a condition of the reader''s that is leakproof: with EXPLAIN, with a plan that outlives its tenant, or '
  'with an index that does not begin with the tenant, such a condition tells whether another tenant has a matching row. '
  'Behind the fence the rows of the tenant are taken first. Call it again after a column was added.';
--! EndIncluded app_private/fence.sql
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
--! Included app/cost_lines_current.sql
create or replace view app.cost_lines_current with (security_invoker = true, security_barrier = true) as
select l.*
from app.cost_periods as p
join app.cost_lines as l
  on l.tenant_id = p.tenant_id
  and l.import_id = p.import_id
  and l.billing_period_start = p.billing_period_start;

comment on view app.cost_lines_current is 'The lines that count now: those of published periods.';
--! EndIncluded app/cost_lines_current.sql
--! Included app/cost_daily_current.sql
create or replace view app.cost_daily_current with (security_invoker = true, security_barrier = true) as
select d.*
from app.cost_periods as p
join app.cost_daily as d
  on d.tenant_id = p.tenant_id
  and d.import_id = p.import_id
  and d.billing_period_start = p.billing_period_start;

comment on view app.cost_daily_current is 'The daily sums that count now: those of published periods.';
--! EndIncluded app/cost_daily_current.sql
--! Included tenant/cost_lines_current.sql
create or replace view tenant.cost_lines_current with (security_invoker = true, security_barrier = true) as
select l.*
from tenant.cost_periods as p
join tenant.cost_lines as l
  on l.import_id = p.import_id
  and l.billing_period_start = p.billing_period_start;

comment on view tenant.cost_lines_current is 'Own rows. The lines that count now: those of published periods.';

grant select on tenant.cost_lines_current to holdfast_tenant;
--! EndIncluded tenant/cost_lines_current.sql
--! Included tenant/cost_daily_current.sql
create or replace view tenant.cost_daily_current with (security_invoker = true, security_barrier = true) as
select d.*
from tenant.cost_periods as p
join tenant.cost_daily as d
  on d.import_id = p.import_id
  and d.billing_period_start = p.billing_period_start;

comment on view tenant.cost_daily_current is 'Own rows. The daily sums that count now: those of published periods.';

grant select on tenant.cost_daily_current to holdfast_tenant;
--! EndIncluded tenant/cost_daily_current.sql

-- Tickets: bound to a backend unless their key says otherwise; keys are retired; people become a tenant with one.
alter table app_private.ticket_keys add column if not exists binding text not null default 'backend';
alter table app_private.ticket_keys drop constraint if exists ticket_keys_binding_known;
alter table app_private.ticket_keys
  add constraint ticket_keys_binding_known check (binding in ('backend', 'none'));
--! Included app_private/ticket_keys.sql
create table if not exists app_private.ticket_keys (
  kid       integer     not null,
  ipad      bytea       not null,
  opad      bytea       not null,
  not_after timestamptz,
  binding   text        not null default 'backend',

  constraint ticket_keys_pkey primary key (kid),
  constraint ticket_keys_kid_positive check (kid between 1 and 999999999),
  constraint ticket_keys_pads_are_blocks check (length(ipad) = 64 and length(opad) = 64),
  constraint ticket_keys_binding_known check (binding in ('backend', 'none'))
);

comment on table app_private.ticket_keys is
  'Keys that verify tickets, already padded for HMAC-SHA256 (RFC 2104). No role of the shell can read them.';
comment on column app_private.ticket_keys.kid is 'The number that a ticket names.';
comment on column app_private.ticket_keys.ipad is 'Key xor 0x36, padded to 64 bytes.';
comment on column app_private.ticket_keys.opad is 'Key xor 0x5c, padded to 64 bytes.';
comment on column app_private.ticket_keys.not_after is
  'When tickets of this key stop being accepted; null while it is in use.';
comment on column app_private.ticket_keys.binding is
  'backend: its tickets are good for the one backend that they name. none: they may name none, which a transaction '
  'pooler needs, for no client behind it knows its backend. See ops.ticket_key_set.';
--! EndIncluded app_private/ticket_keys.sql
drop function if exists app_private.ticket_tenant(text);
--! Included app_private/ticket_tenant.sql
create or replace function app_private.ticket_tenant(ticket text) returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  v_part    text[];
  v_binding text;
begin
  -- No ticket of ours is longer than 137: what is, is not worth a hash.
  if ticket is null or pg_catalog.length(ticket) > 137 then
    perform app_private.refuse('the ticket is missing or malformed');
  end if;
  v_part := pg_catalog.string_to_array(ticket, '.');

  -- The signature comes first, and every part is compared as text: a pattern over the whole would cost twice as much
  -- as all the rest, and a cast would say what it could not read.
  select k.binding into v_binding
  from app_private.ticket_keys as k
  where k.kid::text = v_part[2]
    and (k.not_after is null or k.not_after > pg_catalog.clock_timestamp())
    and v_part[6] = pg_catalog.encode(pg_catalog.sha256(k.opad || pg_catalog.sha256(
      k.ipad || pg_catalog.convert_to(pg_catalog.left(ticket, -65), 'UTF8'))), 'hex');
  if v_binding is null
    or pg_catalog.cardinality(v_part) <> 6
    or v_part[1] <> 'v1'
    or v_part[4] not in ('0', pg_catalog.pg_backend_pid()::text)
    or v_part[5] !~ '^[0-9]{1,12}$'
  then
    perform app_private.refuse('the ticket is not valid');
  end if;

  if v_part[4] = '0' and v_binding <> 'none' then
    perform app_private.refuse('the ticket names no backend, and its key wants one');
  end if;
  -- Told apart, so that a clock that is wrong does not look like a forgery. A forger never gets this far.
  if pg_catalog.to_timestamp(v_part[5]::bigint) < pg_catalog.clock_timestamp() then
    perform app_private.refuse('the ticket has expired: is the clock of the caller right?');
  end if;

  return v_part[3];
end
$$;

comment on function app_private.ticket_tenant is
  'The tenant, as it is written, that a ticket v1.<kid>.<tenant>.<pid or 0>.<unix expiry>.<hmac-sha256> opens. '
  'Raises RL101.';
--! EndIncluded app_private/ticket_tenant.sql
--! Included app_private/ticket_make.sql
create or replace function app_private.ticket_make(tenant_id uuid, pid integer, expires_at timestamptz)
returns text
language plpgsql
set search_path = ''
as $$
declare
  v_key  app_private.ticket_keys;
  v_body text;
begin
  select k.* into v_key
  from app_private.ticket_keys as k
  where k.not_after is null or k.not_after >= expires_at
  order by k.not_after nulls first, k.kid desc
  limit 1;
  if not found then
    perform app_private.refuse('no ticket key is in use');
  end if;

  v_body := pg_catalog.format('v1.%s.%s.%s.%s',
    v_key.kid, tenant_id, pid, pg_catalog.floor(extract(epoch from expires_at)));
  return v_body || '.' || pg_catalog.encode(pg_catalog.sha256(v_key.opad || pg_catalog.sha256(
    v_key.ipad || pg_catalog.convert_to(v_body, 'UTF8'))), 'hex');
end
$$;

comment on function app_private.ticket_make is
  'A ticket for one backend, signed by the newest key in use, as src/tickets.ts makes them. Only for ops.become: no role '
  'may execute it. Raises RL101 when no key lasts that long.';
--! EndIncluded app_private/ticket_make.sql
--! Included app/error_codes.sql
create or replace view app.error_codes as
select e.sqlstate, e.name, e.http_status, e.meaning
from (values
  ('RL101', 'rls_enforcement_failed', 500,
   'No tenant was entered, or the ticket does not open it. Nothing was read or changed.'),
  ('TK101', 'ticket_key_not_found',   404, 'No ticket key has that number.'),
  ('TK201', 'ticket_key_last',        409, 'It is the last ticket key in use: without it, nobody could enter.'),
  ('TN101', 'tenant_not_found',       404, 'No tenant has that name or id.'),
  ('TN102', 'tenant_name_taken',      409, 'Another tenant has that name.'),
  ('TN103', 'tenant_invalid',         400, 'A name, tier or time zone is not one that a tenant may have.'),
  ('LB101', 'budget_exceeded',        402, 'The hold does not fit the budget; detail.reason says why.'),
  ('LB102', 'no_price',               402, 'No price is known for that model, so its cost has no bound.'),
  ('LB103', 'idempotency_conflict',   422, 'The key was used before, with another request.'),
  ('LB104', 'reservation_not_found',  404, 'No reservation of this tenant has that id.'),
  ('LB105', 'reservation_invalid',    400, 'A number is missing, negative or too large.'),
  ('LB201', 'reservation_closed',     409, 'The reservation has ended in another way.'),
  ('JB101', 'job_run_not_found',      404, 'No run of this tenant has that id.'),
  ('JB201', 'job_run_fenced',         409, 'The run has gone on without this attempt; its work is rolled back.'),
  ('JB202', 'job_transition_refused', 409, 'That change of state is not in app.job_run_transitions.'),
  ('IM101', 'import_not_found',       404, 'No import of this tenant has that id.'),
  ('IM102', 'import_invalid',         422, 'A line of the import breaks a rule of the table.'),
  ('IM103', 'import_empty',           422, 'The import has no line.'),
  ('IM201', 'import_closed',          409, 'The import has been published or has failed.'),
  ('NA101', 'analysis_not_found',     404, 'No analysis of this tenant has that id.'),
  ('NA102', 'analysis_invalid',       400, 'The wording of an analysis does not have the shape that SQL accepts.'),
  ('VR201', 'optimistic_lock_failed', 409, 'The row has changed since it was read.'),
  ('OP101', 'reason_required',        400, 'A change by a person needs a reason of at least 3 characters.'),
  ('OP102', 'argument_invalid',       400, 'An argument is outside of what the function takes.')
) as e (sqlstate, name, http_status, meaning);

comment on view app.error_codes is 'Every SQLSTATE that holdfast raises, with its fixed name and HTTP status.';
comment on column app.error_codes.sqlstate is
  'Two letters for the area, a digit for the verdict (1 refused, 2 wrong state, 3 try later), two to count.';
comment on column app.error_codes.name is 'The message of the error: logs, metrics and clients match on it.';
comment on column app.error_codes.http_status is 'The status that the HTTP endpoint answers with.';
comment on column app.error_codes.meaning is 'What happened, for a person.';

grant select on app.error_codes
  to holdfast_service, holdfast_worker, holdfast_tenant, holdfast_system, holdfast_ops;
--! EndIncluded app/error_codes.sql
--! Included app/ticket_binding.sql
create or replace function app.ticket_binding(kid integer) returns text
language plpgsql
stable
security definer  -- the keys that verify a ticket are readable by the owner alone
set search_path = ''
as $$
begin
  return (
    select k.binding
    from app_private.ticket_keys as k
    where k.kid = ticket_binding.kid
      and (k.not_after is null or k.not_after > pg_catalog.clock_timestamp()));
end
$$;

comment on function app.ticket_binding is
  'What the tickets of a key must name: backend, the one that they are good for, or none. Null for a key that is not '
  'there or is retired. A program asks once, at its start. Knows no tenant.';

grant execute on function app.ticket_binding to holdfast_service, holdfast_worker;
--! EndIncluded app/ticket_binding.sql
--! Included app/tenant_find.sql
set local role holdfast_system;

create or replace function app.tenant_find(name text) returns uuid
language plpgsql
stable
security definer  -- nobody has entered yet
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id uuid;
begin
  select t.tenant_id into v_tenant_id from app.tenants as t where t.name = tenant_find.name;
  if not found then
    raise exception using
      errcode = 'TN101',
      message = 'tenant_not_found',
      detail  = pg_catalog.jsonb_build_object('name', tenant_find.name),
      hint    = 'select tenant from ops.tenants lists them; ops.tenant_add makes one.';
  end if;
  return v_tenant_id;
end
$$;

comment on function app.tenant_find is 'The id of the tenant with that name, among all tenants. Raises TN101.';

grant execute on function app.tenant_find to holdfast_ops, holdfast_worker, holdfast_owner;

set local role holdfast_owner;
--! EndIncluded app/tenant_find.sql
--! Included ops/become.sql
create or replace function ops.become(tenant text, reason text, minutes integer default 60)
returns table (tenant_id uuid, expires_at timestamptz, next text)
language plpgsql
security definer  -- the keys that sign a ticket are readable by the owner alone
set search_path = ''
as $$
declare
  v_tenant_id  constant uuid := app.tenant_find(tenant);
  v_expires_at constant timestamptz :=
    pg_catalog.date_trunc('second', pg_catalog.clock_timestamp()) + pg_catalog.make_interval(mins => minutes);
begin
  perform app_private.reason_check(reason);
  if minutes is null or minutes not between 1 and 480 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('minutes', minutes),
      hint    = 'Say for how long: 1 to 480 minutes.';
  end if;

  insert into ops.audit_log (action, subject, reason, after)
  values ('become', tenant, reason, pg_catalog.jsonb_build_object(
    'tenant_id', v_tenant_id, 'expires_at', v_expires_at, 'backend', pg_catalog.pg_backend_pid()));

  -- Kept in the session, so that it never stands in the text of a statement, which may be logged.
  perform pg_catalog.set_config('app.become_ticket',
    app_private.ticket_make(v_tenant_id, pg_catalog.pg_backend_pid(), v_expires_at), false);
  -- In the server's log as well: the row is gone when the transaction is rolled back, what was seen is not.
  raise log 'ops.become: % becomes tenant % until %: %', session_user, v_tenant_id, v_expires_at, reason;
  return query select v_tenant_id, v_expires_at, 'begin; select ops.enter(); select … from tenant.…; commit;';
end
$$;

comment on function ops.become is
  'Gives this session a ticket for a tenant, to see with ops.enter what the tenant sees; audited. The ticket is good for '
  'this connection alone and for that many minutes; connect directly, for a pooler would hand it on. Raises TN101, OP101, '
  'OP102.';

grant execute on function ops.become to holdfast_ops;
--! EndIncluded ops/become.sql
--! Included ops/enter.sql
create or replace function ops.enter() returns text
language plpgsql
set search_path = ''
as $$
declare
  v_ticket    constant text := pg_catalog.current_setting('app.become_ticket', true);
  v_tenant_id uuid;
  v_name      text;
begin
  if v_ticket is null or v_ticket !~ '^v1\.[0-9]+\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.' then
    raise exception using
      errcode = 'RL101',
      message = 'rls_enforcement_failed',
      detail  = pg_catalog.jsonb_build_object('reason', 'this session has no ticket'),
      hint    = 'Once per session: select * from ops.become(tenant => …, reason => …);';
  end if;

  v_tenant_id := pg_catalog.split_part(v_ticket, '.', 3)::uuid;
  perform app.enter(v_tenant_id, v_ticket);
  select t.tenant into v_name from ops.tenants as t where t.tenant_id = v_tenant_id;
  -- Ends with the transaction, as what app.enter set does.
  perform pg_catalog.set_config('role', 'holdfast_tenant', true);
  if pg_catalog.transaction_timestamp() = pg_catalog.statement_timestamp() then
    raise warning 'this ends with its transaction: say begin first';
  end if;
  return v_name;
end
$$;

comment on function ops.enter is
  'Enters the tenant of ops.become for the rest of this transaction, as the tenant role, and answers its name: until the '
  'commit there is only tenant.*, what the tenant sees. Raises RL101 without a ticket, or with one that has expired.';

grant execute on function ops.enter to holdfast_ops;
--! EndIncluded ops/enter.sql
--! Included app_private/ticket_key_missing.sql
create or replace function app_private.ticket_key_missing(kid integer) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'TK101',
    message = 'ticket_key_not_found',
    detail  = pg_catalog.jsonb_build_object('kid', kid),
    hint    = 'select * from ops.ticket_keys lists them. A new one comes with npm run db:migrate.';
end
$$;

comment on function app_private.ticket_key_missing is 'Raises TK101: no ticket key has that number.';
--! EndIncluded app_private/ticket_key_missing.sql
--! Included ops/ticket_keys.sql
create or replace view ops.ticket_keys as
select k.kid,
       case when k.not_after is null then 'in use'
            when k.not_after > pg_catalog.clock_timestamp() then 'ending'
            else 'retired' end as state,
       k.binding, k.not_after
from app_private.ticket_keys as k
order by k.kid;

comment on view ops.ticket_keys is
  'The keys that tickets are verified with, without the keys: their state, and whether their tickets name a backend. '
  'A new one comes with npm run db:migrate, under a new TICKET_KEY_ID.';

grant select on ops.ticket_keys to holdfast_ops;
--! EndIncluded ops/ticket_keys.sql
--! Included ops/ticket_key_set.sql
create or replace function ops.ticket_key_set(
  kid integer, binding text, reason text, dry_run boolean default false)
returns table (key_id integer, before text, after text)
language plpgsql
security definer  -- the keys that verify a ticket are readable by the owner alone
set search_path = ''
as $$
declare
  v_before text;
begin
  perform app_private.reason_check(reason);
  if binding is null or binding not in ('backend', 'none') then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('binding', binding),
      hint    = 'A binding is backend (direct connections) or none (behind a transaction pooler).';
  end if;

  select k.binding into v_before
  from app_private.ticket_keys as k where k.kid = ticket_key_set.kid
  for no key update;
  if not found then
    perform app_private.ticket_key_missing(kid);
  end if;

  if not dry_run then
    update app_private.ticket_keys as k set binding = ticket_key_set.binding where k.kid = ticket_key_set.kid;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('ticket_key_set', 'ticket key ' || kid, reason,
            pg_catalog.jsonb_build_object('binding', v_before),
            pg_catalog.jsonb_build_object('binding', ticket_key_set.binding));
  end if;
  return query select kid, v_before, ticket_key_set.binding;
end
$$;

comment on function ops.ticket_key_set is
  'Sets whether the tickets of a key must name the backend that they are good for; audited. none is for programs behind '
  'a transaction pooler, which take it over at their next start. dry_run shows the change. Raises TK101, OP101, OP102.';

grant execute on function ops.ticket_key_set to holdfast_ops;
--! EndIncluded ops/ticket_key_set.sql
--! Included ops/ticket_key_retire.sql
create or replace function ops.ticket_key_retire(
  kid integer, reason text, after interval default '10 minutes', dry_run boolean default false)
returns table (key_id integer, before timestamptz, ends_at timestamptz)
language plpgsql
security definer  -- the keys that verify a ticket are readable by the owner alone
set search_path = ''
as $$
declare
  v_before  timestamptz;
  v_ends_at timestamptz;
begin
  perform app_private.reason_check(reason);
  if after is null or after < interval '0' or after > interval '30 days' then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('after', after),
      hint    = 'A key ends at once (0) or up to 30 days from now.';
  end if;

  -- All of them are locked: two people must not retire two keys as if each left the other.
  perform from app_private.ticket_keys as k order by k.kid for no key update;
  select k.not_after into v_before from app_private.ticket_keys as k where k.kid = ticket_key_retire.kid;
  if not found then
    perform app_private.ticket_key_missing(kid);
  end if;
  if not exists (
    select from app_private.ticket_keys as k where k.kid <> ticket_key_retire.kid and k.not_after is null)
  then
    raise exception using
      errcode = 'TK201',
      message = 'ticket_key_last',
      detail  = pg_catalog.jsonb_build_object('kid', kid),
      hint    =
        'Nobody could enter any more. First the next one: a new TICKET_KEY and TICKET_KEY_ID, npm run db:migrate.';
  end if;

  -- Never later than it was to end: one that was stolen must not come back.
  v_ends_at := least(v_before, pg_catalog.clock_timestamp() + after);
  if not dry_run then
    update app_private.ticket_keys as k set not_after = v_ends_at where k.kid = ticket_key_retire.kid;
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('ticket_key_retire', 'ticket key ' || kid, reason,
            pg_catalog.jsonb_build_object('not_after', v_before),
            pg_catalog.jsonb_build_object('not_after', v_ends_at));
  end if;
  return query select kid, v_before, v_ends_at;
end
$$;

comment on function ops.ticket_key_retire is
  'Ends a ticket key, after a while in which programs that still use it are restarted with the next one; after => 0 ends '
  'a stolen one at once. What has an end already never gets a later one. Audited; dry_run shows the change. Raises TK101, '
  'TK201 for the last key in use, OP101, OP102.';

grant execute on function ops.ticket_key_retire to holdfast_ops;
--! EndIncluded ops/ticket_key_retire.sql
--! Included ops/help.sql
create or replace view ops.help as
select h.name, h.example, h.meaning
from (values
  ('ops.report',        'select * from ops.report',
   'One line per tenant: costs, findings, saving, budget, state.'),
  ('ops.findings',      'select tenant, severity, saving, cur, headline from ops.findings limit 10',
   'What was found and stands, best first.'),
  ('ops.findings_all',  'select tenant, state, headline from ops.findings_all limit 10',
   'Every finding, what has ended too.'),
  ('ops.cost_daily',
   'select day, sum(effective_cost), cur from ops.cost_daily group by day, cur order by day desc limit 10',
   'What the detectors read; the query in a finding''s evidence reads it.'),
  ('ops.budgets',       'select * from ops.budgets',       'What each tenant may spend, has spent and has left.'),
  ('ops.llm_calls',     'select * from ops.llm_calls limit 10', 'Each call to a model: held, cost, tokens.'),
  ('ops.imports',       'select * from ops.imports limit 10', 'Each cost file: flags, or why it was refused.'),
  ('ops.runs',          'select * from ops.runs limit 10', 'Each job: state, attempt, error.'),
  ('ops.run_events',    'select * from ops.run_events order by created_at desc limit 10',
   'Each change of state of each run.'),
  ('ops.tenants',       'select * from ops.tenants',       'Who is there.'),
  ('ops.audit_log',     'select * from ops.audit_log order by id desc limit 10', 'What people changed, and why.'),
  ('ops.doctor',        'select * from ops.doctor()',
   'What of the isolation is missing on this server, and the statement that mends it.'),
  ('ops.ticket_keys',   'select * from ops.ticket_keys',   'The keys that tickets are verified with.'),
  ('ops.ticket_key_set',
   'select * from ops.ticket_key_set(kid => 1, binding => ''none'', reason => ''behind PgBouncer'', dry_run => true)',
   'Say whether tickets of a key name their backend.'),
  ('ops.ticket_key_retire',
   'select * from ops.ticket_key_retire(kid => 1, reason => ''2 has replaced it'', after => ''10 minutes'')',
   'End a ticket key when another is in use.'),
  ('ops.tenant_add',
   'select * from ops.tenant_add(name => ''Acme'', limit_usd => 25, reason => ''new customer'')',
   'Make a tenant with a monthly budget.'),
  ('ops.become',        'select * from ops.become(''Acme'', reason => ''a question of theirs'')',
   'Take a ticket for a tenant into this session; audited.'),
  ('ops.enter',         'begin; select ops.enter(); select count(*) from tenant.findings; commit',
   'See what the tenant of ops.become sees, for one transaction.'),
  ('ops.budget_set',
   'select * from ops.budget_set(tenant => ''Acme'', limit_usd => 50, reason => ''asked for more'')',
   'Change a budget.'),
  ('ops.llm_price_set',
   'select * from ops.llm_price_set(''api.example.com'', ''model'', 0.4, 1.6, reason => ''price list of May'')',
   'Set the price of a model.'),
  ('ops.llm_write_off',
   'select w.* from ops.llm_calls as c, ops.llm_write_off(c.id, ''not billed'', true) as w where c.status = ''PRESUMED''',
   'Give back what a PRESUMED hold counts, once the bill shows that it was not charged.'),
  ('app.llm_check',     'select * from app.llm_check()',   'Broken invariants of the budget; no row is good.'),
  ('app.error_codes',   'select * from app.error_codes',   'What each error code means.'),
  ('app_private.lint',  'select * from app_private.lint',  'House rules that are broken; no row is good.')
) as h (name, example, meaning);

comment on view ops.help is 'What there is for people in psql, with an example each.';

grant select on ops.help to holdfast_ops;
--! EndIncluded ops/help.sql

-- Another tenant's run is no run: found by neither a claim nor a hold.
--! Included app/job_claim.sql
create or replace function app.job_claim(tenant_id uuid, ticket text, run_id uuid, worker text)
returns table (
  attempt integer, kind text, timeout_ms integer, lease_until timestamptz, input jsonb, max_attempts integer)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  -- The test is part of the update, so two workers with the same token cannot both win.
  return query
  update app.job_runs as r
  set state = 'RUNNING',
      attempt = r.attempt + 1,
      worker = job_claim.worker,
      started_at = pg_catalog.clock_timestamp(),
      lease_until = pg_catalog.clock_timestamp() + interval '20 seconds'
  from app.job_kinds as k
  where r.tenant_id = job_claim.tenant_id
    and r.id = run_id
    and r.state in ('PENDING', 'FAILED')
    and r.available_at <= pg_catalog.clock_timestamp()
    and k.kind = r.kind
  returning r.attempt, r.kind, k.timeout_seconds * 1000, r.lease_until, r.input, k.max_retries + 1;

  if not found and not exists (
    select from app.job_runs as r where r.tenant_id = job_claim.tenant_id and r.id = run_id)
  then
    perform app_private.job_fenced(tenant_id, run_id, null);
  end if;
end
$$;

comment on function app.job_claim is
  'Starts the next attempt of a run, with a lease of 20 s that job_heartbeat extends. No row: the token is stale (the '
  'run is taken, ended, or not due), and there is nothing to do. Raises JB101 for a run that is not there.';

grant execute on function app.job_claim to holdfast_worker;
--! EndIncluded app/job_claim.sql
--! Included app/llm_reserve.sql
create or replace function app.llm_reserve(
  tenant_id uuid, ticket text, idempotency_key text, provider text, model text,
  input_tokens_bound bigint, max_output_tokens bigint,
  run_id uuid default null, attempt integer default 1, ttl interval default interval '2 minutes')
returns table (id uuid, status text, estimated_cost_nanousd bigint, expires_at timestamptz, replayed boolean)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
declare
  v_fingerprint text := pg_catalog.md5(pg_catalog.jsonb_build_array(
    provider, model, input_tokens_bound, max_output_tokens, run_id, attempt)::text);
  v_at          timestamptz := pg_catalog.clock_timestamp();
  v_id          uuid := app_private.uuid_v7();
  v_price       record;
  v_needed      numeric;
  v_known       app.llm_reservations;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.llm_request_check(idempotency_key, input_tokens_bound, max_output_tokens, attempt, ttl);
  -- Read at the commit, which a paid call follows; a setting of the function would be gone by then.
  perform pg_catalog.set_config('synchronous_commit', 'on', true);

  -- The key comes first: a replay is answered before any other check, and two racing callers make one hold.
  insert into app.llm_reservation_keys as k (tenant_id, idempotency_key, fingerprint, reservation_id)
  values (llm_reserve.tenant_id, llm_reserve.idempotency_key, v_fingerprint, v_id)
  on conflict on constraint llm_reservation_keys_pkey do nothing;
  if not found then
    v_known := app_private.llm_reservation_replay(tenant_id, idempotency_key, v_fingerprint);
    return query select v_known.id, v_known.status, v_known.estimated_cost_nanousd, v_known.expires_at, true;
    return;
  end if;

  if run_id is not null and not exists (
    select from app.job_runs as r where r.tenant_id = llm_reserve.tenant_id and r.id = llm_reserve.run_id)
  then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;

  select p.* into v_price from app_private.llm_price_of(provider, model, v_at) as p;
  v_needed := app_private.llm_cost_nanousd(input_tokens_bound, 0, max_output_tokens,
    greatest(v_price.input_rate, v_price.cached_rate), null, v_price.output_rate);

  insert into app.llm_reservations (tenant_id, id, provider, model, run_id, attempt, input_tokens_bound,
    max_output_tokens, estimated_cost_nanousd, price_ids, expires_at)
  values (llm_reserve.tenant_id, v_id, llm_reserve.provider, llm_reserve.model, llm_reserve.run_id,
    llm_reserve.attempt, llm_reserve.input_tokens_bound, llm_reserve.max_output_tokens, v_needed::bigint,
    v_price.price_ids, v_at + ttl);

  -- The hot rows are touched last, so that their locks are short.
  if not app_private.llm_admit(tenant_id, v_id, v_needed::bigint, v_at) then
    perform app_private.llm_refuse(tenant_id, v_at, v_needed,
      app_private.llm_cost_nanousd(input_tokens_bound, 0, 0,
        greatest(v_price.input_rate, v_price.cached_rate), null, 0),
      v_price.output_rate);
  end if;

  return query select v_id, 'RESERVED', v_needed::bigint, v_at + ttl, false;
end
$$;

comment on function app.llm_reserve is
  'Holds the most that a model call can cost, in every budget of the tenant or in none, before the call is made. The '
  'same key and request answer the first hold again. Raises LB101 budget_exceeded, LB102 no_price, LB103, LB105, '
  'JB101 for a run_id that is no run of the tenant.';

grant execute on function app.llm_reserve to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_reserve.sql

-- What one tenant locks or chooses must not stop another, nor tell of it.
--! Included app_private/refuse.sql
create or replace function app_private.refuse(reason text) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'RL101',
    message = 'rls_enforcement_failed',
    detail  = pg_catalog.jsonb_build_object('reason', reason),
    hint    =
      'Enter first, with a fresh ticket for that tenant: app.enter(tenant_id, ticket); in psql ops.become, then ops.enter.';
end
$$;

comment on function app_private.refuse is
  'Raises RL101 rls_enforcement_failed. The reason never holds a tenant id or a part of a ticket.';
--! EndIncluded app_private/refuse.sql
--! Included app/cost_import_publish.sql
create or replace function app.cost_import_publish(tenant_id uuid, ticket text, import_id uuid)
returns table (
  line_count bigint, flagged_count bigint, flags jsonb, period_count integer, replaced_lines bigint,
  replaced_files text[])
language plpgsql
security definer  -- the shell may not move the pointer
set search_path = ''
as $$
declare
  v_import         app.cost_imports;
  v_periods        integer;
  v_replaced_lines bigint;
  v_replaced_files text[];
begin
  perform app.enter(tenant_id, ticket);
  v_import := app_private.cost_import_open(tenant_id, import_id, 'LOADED');
  -- Publishers go one after another, so each can say what it took from the one before. Of all that is in the key nothing
  -- is the caller's choice: a source can be found for every key, also for that of another tenant.
  perform pg_advisory_xact_lock(hashtextextended(tenant_id::text, 0));

  with taken as (
    select distinct p.import_id, p.billing_period_start
    from app.cost_daily as d
    join app.cost_periods as p
      on p.tenant_id = d.tenant_id
        and p.source = v_import.source
        and p.billing_period_start = d.billing_period_start
    where d.tenant_id = cost_import_publish.tenant_id and d.import_id = cost_import_publish.import_id
  )
  select coalesce(sum(d.line_count), 0), coalesce(array_agg(distinct i.file_name), '{}')
  into v_replaced_lines, v_replaced_files
  from taken as t
  join app.cost_imports as i on i.tenant_id = cost_import_publish.tenant_id and i.id = t.import_id
  join app.cost_daily as d
    on d.tenant_id = i.tenant_id and d.import_id = i.id and d.billing_period_start = t.billing_period_start;

  insert into app.cost_periods as p (tenant_id, source, billing_period_start, import_id)
  select distinct d.tenant_id, v_import.source, d.billing_period_start, d.import_id
  from app.cost_daily as d
  where d.tenant_id = cost_import_publish.tenant_id and d.import_id = cost_import_publish.import_id
  on conflict on constraint cost_periods_pkey
    do update set import_id = excluded.import_id, published_at = excluded.published_at;
  get diagnostics v_periods = row_count;

  -- When a superseded import was finished stays known: that was when it was published.
  update app.cost_imports as i
  set status = case when i.id = cost_import_publish.import_id then 'PUBLISHED' else 'SUPERSEDED' end,
      finished_at = coalesce(i.finished_at, now())
  where i.tenant_id = cost_import_publish.tenant_id
    and (i.id = cost_import_publish.import_id
      or (i.status = 'PUBLISHED'
        and not exists (select from app.cost_periods as p
          where p.tenant_id = i.tenant_id and p.import_id = i.id)));

  perform app_private.event_add(tenant_id, 'import.published', import_id, jsonb_build_object(
    'source', v_import.source, 'lines', v_import.line_count, 'flagged', v_import.flagged_count,
    'periods', v_periods, 'replaced_lines', v_replaced_lines));

  return query select v_import.line_count, v_import.flagged_count, v_import.flags, v_periods,
    v_replaced_lines, v_replaced_files;
end
$$;

comment on function app.cost_import_publish is
  'Makes a rolled-up import the truth for each billing period that it has lines of, in one short '
  'transaction; what was there before from the same source is superseded and swept later. Answers how many '
  'lines it took the place of, and the names of the files that they came with. Raises IM101, IM201.';

grant execute on function app.cost_import_publish to holdfast_service, holdfast_worker;
--! EndIncluded app/cost_import_publish.sql
--! Included app/cost_import_sweep.sql
set local role holdfast_system;

create or replace function app.cost_import_sweep(max_rows integer default 20000) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_import app.cost_imports;
  v_count  integer;
begin
  -- One by one: what a tenant keeps locked is left for the next time.
  for v_import in
    select i.* from app.cost_imports as i
    where i.status in ('LOADING', 'LOADED') and i.started_at < now() - interval '1 day'
    for no key update skip locked
  loop
    update app.cost_imports as i
    set status = 'FAILED', error = '{"reason": "abandoned"}', finished_at = now()
    where i.tenant_id = v_import.tenant_id and i.id = v_import.id;
  end loop;

  select i.* into v_import
  from app.cost_imports as i
  where i.status in ('SUPERSEDED', 'FAILED') and i.swept_at is null
  order by i.started_at
  limit 1
  for no key update skip locked;
  if not found then
    return 0;
  end if;

  delete from app.cost_lines as l
  where l.tenant_id = v_import.tenant_id
    and l.import_id = v_import.id
    and l.line_no in (
      select b.line_no from app.cost_lines as b
      where b.tenant_id = v_import.tenant_id and b.import_id = v_import.id order by b.line_no limit max_rows);
  get diagnostics v_count = row_count;
  if v_count = max_rows then
    return v_count;
  end if;

  delete from app.cost_daily as d where d.tenant_id = v_import.tenant_id and d.import_id = v_import.id;
  update app.cost_imports as i set swept_at = now()
  where i.tenant_id = v_import.tenant_id and i.id = v_import.id;
  return v_count + 1;
end
$$;

comment on function app.cost_import_sweep is
  'Removes the lines of one superseded or failed import, among all tenants, max_rows at a time; 0 when nothing is '
  'left. An import that was left loading for a day has failed.';

grant execute on function app.cost_import_sweep to holdfast_worker, holdfast_owner;

set local role holdfast_owner;
--! EndIncluded app/cost_import_sweep.sql
--! Included app_private/llm_expired.sql
create or replace function app_private.llm_expired(max_rows integer)
returns table (tenant_id uuid, id uuid)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select e.tenant_id, e.id
  from (
    select r.tenant_id, r.id, r.expires_at,
           row_number() over (partition by r.tenant_id order by r.expires_at) as place
    from app.llm_reservations as r
    where r.status = 'RESERVED' and r.expires_at < pg_catalog.clock_timestamp()) as e
  order by e.place, e.expires_at
  limit max_rows;
end
$$;

comment on function app_private.llm_expired is
  'Holds past their time, the oldest of each tenant first: what one tenant keeps locked must not fill a batch.';

grant execute on function app_private.llm_expired to holdfast_system;
--! EndIncluded app_private/llm_expired.sql
--! Included app_private/llm_periods_lock.sql
create or replace function app_private.llm_periods_lock(tenant_id uuid, reservation_id uuid) returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_hold record;
begin
  for v_hold in
    select h.budget_id, h.period_start
    from app.llm_reservation_budgets as h
    where h.tenant_id = llm_periods_lock.tenant_id and h.reservation_id = llm_periods_lock.reservation_id
    order by h.budget_id, h.period_start
  loop
    perform from app.llm_budget_periods as p
    where p.tenant_id = llm_periods_lock.tenant_id
      and p.budget_id = v_hold.budget_id
      and p.period_start = v_hold.period_start
    for no key update skip locked;
    if not found then
      return false;
    end if;
  end loop;
  return true;
end
$$;

comment on function app_private.llm_periods_lock is
  'Locks the counters of every budget that a reservation is held in, or answers false when another has one of them: '
  'nothing is waited for.';

grant execute on function app_private.llm_periods_lock to holdfast_system;
--! EndIncluded app_private/llm_periods_lock.sql
--! Included app/llm_expire.sql
set local role holdfast_system;

create or replace function app.llm_expire(max_rows integer default 500)
returns table (tenant_id uuid, reservation_id uuid, run_id uuid)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_due  record;
  v_held app.llm_reservations;
begin
  -- One by one, and nothing is waited for: a tenant that keeps a row locked must not stop the others. As one statement
  -- with "skip locked" twice it crashed PostgreSQL 18.4 within a minute of 24 callers.
  for v_due in select e.tenant_id, e.id from app_private.llm_expired(max_rows) as e loop
    select r.* into v_held
    from app.llm_reservations as r
    where r.tenant_id = v_due.tenant_id and r.id = v_due.id and r.status = 'RESERVED'
    for no key update skip locked;
    continue when not found or not app_private.llm_periods_lock(v_due.tenant_id, v_due.id);

    update app.llm_reservations as r
    set status = 'PRESUMED', reason = 'expired'
    where r.tenant_id = v_due.tenant_id and r.id = v_due.id;
    update app.llm_budget_periods as p
    set reserved_nanousd = p.reserved_nanousd - v_held.estimated_cost_nanousd,
        presumed_nanousd = p.presumed_nanousd + v_held.estimated_cost_nanousd
    from app.llm_reservation_budgets as h
    where h.tenant_id = v_due.tenant_id and h.reservation_id = v_due.id
      and p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start;
    return query select v_due.tenant_id, v_due.id, v_held.run_id;
  end loop;
end
$$;

comment on function app.llm_expire is
  'Turns holds past their time into PRESUMED, among all tenants, max_rows at a time; answers which. It only '
  'tidies: an expired hold counts the same before and after. What is locked is left for the next time.';

grant execute on function app.llm_expire to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/llm_expire.sql
--! Included app/maintain.sql
create or replace function app.maintain(max_sweeps integer default 2)
returns table (partitions_made integer, rows_swept bigint)
language plpgsql
security definer  -- the owner alone may add partitions
set search_path = ''
as $$
declare
  v_swept integer;
begin
  rows_swept := 0;
  for v_sweep in 1 .. max_sweeps loop
    v_swept := app.cost_import_sweep();
    exit when v_swept = 0;
    rows_swept := rows_swept + v_swept;
  end loop;

  -- Last, for it locks the tables that reservations and runs are written to. A reader who keeps one open must not undo
  -- the sweep: they are made months ahead, and the next hour tries again.
  begin
    partitions_made := app_private.partitions_make();
  exception
    when lock_not_available then
      raise warning 'app.maintain: no partition was made, for a table stayed locked';
  end;
  return next;
end
$$;

comment on function app.maintain is
  'What must be done now and then: partitions ahead of time, lines of imports that nobody sees. '
  'partitions_made is null when a table stayed locked for 3 s. Each call is one short transaction: call again while '
  'rows_swept is not 0. Safe at any time and by many.';

grant execute on function app.maintain to holdfast_worker, holdfast_ops;
--! EndIncluded app/maintain.sql

-- The lint: what can be reached without a ticket, and what all tenants share.
--! Included app_private/lint_isolation.sql
create or replace view app_private.lint_isolation as
with tenant_tables as (
  select c.oid, c.relispartition, c.relrowsecurity, c.relforcerowsecurity, a.attnum
  from pg_catalog.pg_class as c
  -- In whatever schema: what has the column is a tenant's.
  join pg_catalog.pg_namespace as n
    on n.oid = c.relnamespace and n.nspname !~ '^(pg_|information_schema$|graphile_)'
  join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
  where c.relkind in ('r', 'p')
)
select 'table_not_isolated' as rule, t.oid::regclass::text as object
from tenant_tables as t
where not (t.relrowsecurity and t.relforcerowsecurity)
  or not exists (
    select from pg_catalog.pg_policy as p where p.polrelid = t.oid and p.polname = 'tenant_isolation')
union all
-- Permissive policies are OR-ed, so one more of them opens the table: only what isolate makes may stand.
select 'policy_unexpected', p.polrelid::regclass::text || ' ' || p.polname
from pg_catalog.pg_policy as p
join tenant_tables as t on t.oid = p.polrelid
cross join lateral (
  select array(select r.rolname::text from pg_catalog.pg_roles as r
               where r.oid = any (p.polroles) order by r.rolname) as roles,
         replace(pg_catalog.pg_get_expr(p.polqual, p.polrelid), 'app_private.', '') as qual,
         replace(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), 'app_private.', '') as with_check,
         '(require() AND (tenant_id = ( SELECT current_tenant_id() AS current_tenant_id)))' as own) as x
where (p.polname::text, p.polcmd, p.polpermissive, x.roles, x.qual, x.with_check) is distinct from
    ('tenant_isolation', '*', true, array['holdfast_owner', 'holdfast_tenant'], x.own, x.own)
  and (p.polname::text, p.polcmd, p.polpermissive, x.roles, x.qual, x.with_check) is distinct from
    ('system_all', '*', true, array['holdfast_system'], 'true', null)
union all
select 'table_without_tenant', c.oid::regclass::text
from pg_catalog.pg_class as c
where c.relnamespace = 'app'::regnamespace
  and c.relkind in ('r', 'p')
  and c.oid not in (select t.oid from tenant_tables as t)
  and c.relname not in ('tiers', 'schedules', 'llm_prices', 'job_kinds', 'job_run_transitions')
union all
-- A number that all tenants draw from tells each how busy the others are.
select 'sequence_shared', c.oid::regclass::text
from pg_catalog.pg_class as c
where c.relnamespace = 'app'::regnamespace and c.relkind = 'S'
union all
select 'unique_key_without_tenant', i.indexrelid::regclass::text
from pg_catalog.pg_index as i
join tenant_tables as t on t.oid = i.indrelid
-- The names of tenants are unique among all tenants: only functions of ops read or write them.
where i.indisunique and i.indkey[0] <> t.attnum and i.indexrelid <> 'app.tenants_name_once'::regclass
union all
select 'foreign_key_without_tenant', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
join tenant_tables as s on s.oid = k.conrelid
join tenant_tables as t on t.oid = k.confrelid
where k.contype = 'f'
  and not exists (
    select from generate_subscripts(k.conkey, 1) as n
    where k.conkey[n] = s.attnum and k.confkey[n] = t.attnum)
union all
select 'foreign_key_to_hot_counter', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
where k.contype = 'f' and k.confrelid = 'app.llm_budget_periods'::regclass
union all
-- Row security binds an owner only while it is forced, and a superuser never.
select 'owner_unexpected', c.oid::regclass::text || ' ' || pg_catalog.pg_get_userbyid(c.relowner)
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n
  on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
where c.relkind in ('r', 'p', 'v', 'm', 'S', 'c')
  and (pg_catalog.pg_get_userbyid(c.relowner) not in ('holdfast_owner', 'holdfast_system')
    or (c.relkind in ('r', 'p') and pg_catalog.pg_get_userbyid(c.relowner) <> 'holdfast_owner'))
union all
select 'owner_unexpected', p.oid::regprocedure::text || ' ' || pg_catalog.pg_get_userbyid(p.proowner)
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n
  on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
where pg_catalog.pg_get_userbyid(p.proowner) not in ('holdfast_owner', 'holdfast_system')
union all
-- The tenant role reads through fences: of a table itself, its conditions would be tried on the rows of all tenants.
select 'fence_open', c.oid::regclass::text
from pg_catalog.pg_class as c
where c.relnamespace = 'tenant'::regnamespace
  and not (c.relkind = 'v'
    and coalesce(c.reloptions = '{security_barrier=true}', false)
    and pg_catalog.pg_get_viewdef(c.oid) ~ '\sOFFSET 0;$')
  -- A view that reads as its reader comes to the fences, and no further.
  and not (c.relkind = 'v'
    and coalesce(c.reloptions @> '{security_invoker=true,security_barrier=true}', false));

comment on view app_private.lint_isolation is
  'Tables, keys, policies, owners and views that weaken tenant isolation.';
--! EndIncluded app_private/lint_isolation.sql
--! Included app_private/lint_rights.sql
create or replace view app_private.lint_rights as
with ours as (
  select n.oid, n.nspowner, n.nspacl, n.nspname
  from pg_catalog.pg_namespace as n
  where n.nspname in ('app', 'app_private', 'ops', 'tenant')
), grants as (
  select c.oid, x.privilege_type,
         n.nspname = 'tenant' or (n.nspname = 'app' and c.relname in (
           'error_codes', 'tiers', 'llm_prices', 'job_kinds', 'job_run_transitions')) as fenced,
         x.grantee = c.relowner as own, coalesce(r.rolname, 'public') as grantee
  from pg_catalog.pg_class as c
  join ours as n on n.oid = c.relnamespace
  cross join lateral (
    select a.grantee, a.privilege_type from pg_catalog.aclexplode(c.relacl) as a
    union
    select a.grantee, a.privilege_type
    from pg_catalog.pg_attribute as t cross join lateral pg_catalog.aclexplode(t.attacl) as a
    where t.attrelid = c.oid) as x
  left join pg_catalog.pg_roles as r on r.oid = x.grantee
)
-- The logins may touch no table, people and the tenant role may only read, and nobody may what everybody may.
select 'grant_unexpected' as rule,
       g.oid::regclass::text || ' ' || g.grantee || ' ' || g.privilege_type as object
from grants as g
where not g.own and (g.grantee = 'public'
  or (g.grantee in ('holdfast_service', 'holdfast_worker')
    and (g.oid, g.privilege_type) <> ('app.error_codes'::regclass, 'SELECT'))
  or (g.grantee not in ('holdfast_owner', 'holdfast_system') and g.privilege_type <> 'SELECT')
  or (g.grantee = 'holdfast_tenant' and not g.fenced)
  -- What row security does not filter: whole tables, and keys and triggers that look into them.
  or (g.grantee = 'holdfast_system'
    and g.privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN')))
union all
select 'schema_open', n.nspname || ' ' || coalesce(r.rolname, 'public') || ' ' || x.privilege_type
from ours as n
cross join lateral pg_catalog.aclexplode(n.nspacl) as x
left join pg_catalog.pg_roles as r on r.oid = x.grantee
where x.grantee = 0
  or (x.privilege_type = 'CREATE' and x.grantee <> n.nspowner and r.rolname <> 'holdfast_system')
union all
-- A publication sends rows past row security: never secrets, and never whatever comes.
select 'published_secret', p.pubname || ' all tables'
from pg_catalog.pg_publication as p
where p.puballtables
union all
select 'published_secret', t.pubname || ' ' || t.schemaname || '.' || t.tablename
from pg_catalog.pg_publication_tables as t
join pg_catalog.pg_publication as p on p.pubname = t.pubname and not p.puballtables
where t.schemaname = 'app_private'
union all
-- Without a list of rights, everybody has those that PostgreSQL gives by default.
select 'database_open_to_public', d.datname || ' ' || x.privilege_type
from pg_catalog.pg_database as d
cross join lateral pg_catalog.aclexplode(
  coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) as x
where d.datname = pg_catalog.current_database() and x.grantee = 0;

comment on view app_private.lint_rights is
  'Rights on tables, schemas and the database that weaken tenant isolation, and publications that send secrets.';
--! EndIncluded app_private/lint_rights.sql
--! Included app_private/doctor_exposed.sql
create or replace view app_private.doctor_exposed as
with recursive reach (oid) as (
  select r.oid from pg_catalog.pg_roles as r where r.rolname = 'holdfast_tenant'
  union
  select m.member
  from reach
  join pg_catalog.pg_auth_members as m on m.roleid = reach.oid
  -- Of our own roles the service alone may; what is amiss with another is in doctor_memberships.
  join pg_catalog.pg_roles as r
    on r.oid = m.member
    and (r.rolname = 'holdfast_service' or not pg_catalog.starts_with(r.rolname::text, 'holdfast_'))
  -- From 16 on a membership may be for administration alone: then neither option is there.
  where coalesce((pg_catalog.to_jsonb(m) ->> 'set_option')::boolean, true)
    or coalesce((pg_catalog.to_jsonb(m) ->> 'inherit_option')::boolean, true)
)
select r.oid, r.rolname, r.rolcanlogin
from reach
join pg_catalog.pg_roles as r on r.oid = reach.oid and not r.rolsuper;

comment on view app_private.doctor_exposed is
  'The roles as which SQL that is not ours may run: the tenant role, and who may become it, for it may go '
  'back. Not superusers, and not people: they see all tenants anyhow.';
--! EndIncluded app_private/doctor_exposed.sql
--! Included app_private/lint_reach.sql
create or replace view app_private.lint_reach as
with schemas as (
  -- All but PostgreSQL's own and that of its extensions.
  select n.oid, n.nspname, n.nspname in ('app', 'app_private', 'ops', 'tenant') as ours
  from pg_catalog.pg_namespace as n
  where n.nspname !~ '^(pg_|information_schema$|public$)'
)
select 'reach_beyond_ticket' as rule, r.rolname || ' ' || p.oid::regprocedure as object
from app_private.doctor_exposed as r
cross join schemas as s
join pg_catalog.pg_proc as p on p.pronamespace = s.oid
where pg_catalog.has_schema_privilege(r.oid, s.oid, 'usage')
  and pg_catalog.has_function_privilege(r.oid, p.oid, 'execute')
  and not (s.ours and pg_catalog.has_function_privilege('public', p.oid, 'execute'))  -- in lint_functions
  and coalesce(p.proargnames[1:2], '{}') <> '{tenant_id,ticket}'
  and s.nspname || '.' || p.proname not in (
    'app.ticket_check', 'app.ticket_binding', 'app.migration_applied',
    'app_private.current_tenant_id', 'app_private.require')
union all
-- Tables of ours are in lint_rights.
select 'reach_beyond_ticket', r.rolname || ' ' || c.oid::regclass
from app_private.doctor_exposed as r
cross join schemas as s
join pg_catalog.pg_class as c on c.relnamespace = s.oid and c.relkind in ('r', 'p', 'v', 'm', 'f')
where not s.ours
  and pg_catalog.has_schema_privilege(r.oid, s.oid, 'usage')
  and pg_catalog.has_table_privilege(r.oid, c.oid, 'select, insert, update, delete, truncate')
union all
select 'reach_beyond_ticket', r.rolname || ' is a member of ' || m.rolname
from app_private.doctor_exposed as r
join pg_catalog.pg_roles as m
  on m.oid <> r.oid and m.rolname <> 'holdfast_tenant' and pg_catalog.pg_has_role(r.oid, m.oid, 'member')
union all
-- Of our own roles only the service may, and people; what these may else is theirs, so it is not listed.
select 'reach_beyond_ticket', r.rolname || ' may become holdfast_tenant'
from pg_catalog.pg_roles as r
where r.rolname in (
    'holdfast_worker', 'holdfast_admin', 'holdfast_owner', 'holdfast_system', 'holdfast_metrics')
  and pg_catalog.pg_has_role(r.oid, 'holdfast_tenant', 'member');

comment on view app_private.lint_reach is
  'What SQL that is not ours could reach without a ticket: as the tenant role, or back in a login that becomes it.';
--! EndIncluded app_private/lint_reach.sql
--! Included app_private/lint_functions.sql
create or replace view app_private.lint_functions as
with functions as (
  select p.oid, n.nspname, p.proname, p.prosecdef, p.provolatile, p.proparallel, p.proleakproof, p.prosrc,
         p.prosqlbody, p.proconfig, l.lanname, pg_catalog.pg_get_userbyid(p.proowner) as owner,
         coalesce(p.proargnames[1:2], '{}') as first_arguments,
         coalesce(pg_catalog.obj_description(p.oid, 'pg_proc'), '') as meaning
  from pg_catalog.pg_proc as p
  join pg_catalog.pg_namespace as n
    on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
  join pg_catalog.pg_language as l on l.oid = p.prolang
)
select 'function_without_search_path' as rule, f.oid::regprocedure::text as object
from functions as f
where f.prosqlbody is null and not coalesce('search_path=""' = any (f.proconfig), false)
union all
select 'immutable_reads_the_tenant', f.oid::regprocedure::text
from functions as f
where f.provolatile = 'i' and f.prosrc ~* 'current_setting|current_tenant_id|enter\('
  and f.proname <> 'require'
union all
select 'tenant_not_parallel_restricted', f.oid::regprocedure::text
from functions as f
where f.proname in ('current_tenant_id', 'require', 'seal') and f.proparallel <> 'r'
union all
-- A contract function takes the tenant and its ticket, and enters with them before anything else.
select 'contract_does_not_enter', f.oid::regprocedure::text
from functions as f
where f.nspname = 'app' and f.first_arguments = '{tenant_id,ticket}' and f.proname <> 'enter'
  and not (f.lanname = 'plpgsql' and f.prosecdef
    and f.prosrc ~ 'begin\s+perform app\.enter\(tenant_id, ticket\);')
union all
select 'definer_ignores_tenant', f.oid::regprocedure::text
from functions as f
where f.prosecdef and f.owner <> 'holdfast_system' and f.first_arguments <> '{tenant_id,ticket}'
  and f.proname not in ('current_tenant_id', 'ticket_check', 'ticket_binding', 'migration_applied',
    'tokens_add', 'partitions_make', 'maintain', 'become', 'ticket_key_set', 'ticket_key_retire')
union all
-- What sees all tenants says so, and turns row security on so that its own policy applies.
select 'system_function_unmarked', f.oid::regprocedure::text
from functions as f
where f.owner = 'holdfast_system' and f.prosecdef
  and not (f.meaning ~ 'all tenants' and coalesce('row_security=on' = any (f.proconfig), false))
union all
-- A new one is a new way past the policies: it is added here, and to the list of its test, with open eyes.
select 'system_function_unlisted', f.oid::regprocedure::text
from functions as f
where f.owner = 'holdfast_system'
  and f.nspname || '.' || f.proname not in (
    'app.cost_import_sweep', 'app.job_reap', 'app.llm_check', 'app.llm_expire', 'app.schedule_tick',
    'app.tenant_find', 'app.tokens_repair', 'app_private.tenant_check', 'app_private.tokens_wanted',
    'ops.budget_set', 'ops.llm_price_set', 'ops.llm_write_off', 'ops.tenant_add')
union all
-- It would be run on hidden rows, before the policy.
select 'function_leakproof', f.oid::regprocedure::text
from functions as f
where f.proleakproof
union all
select 'function_for_everybody', f.oid::regprocedure::text
from functions as f
where pg_catalog.has_function_privilege('public', f.oid, 'execute')
union all
select 'function_overloaded', min(f.oid::regprocedure::text)
from functions as f
group by f.nspname, f.proname
having count(*) > 1;

comment on view app_private.lint_functions is
  'Functions that could be captured, that skip the ticket, or that see all tenants without saying so.';
--! EndIncluded app_private/lint_functions.sql
--! Included app_private/lint_names.sql
create or replace view app_private.lint_names as
with relations as (
  select c.oid, c.relkind, c.relname
  from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n
    on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
  where c.relkind in ('r', 'p', 'v', 'm') and not c.relispartition
)
select 'missing_comment' as rule, r.oid::regclass::text as object
from relations as r
where pg_catalog.obj_description(r.oid, 'pg_class') is null
union all
select 'missing_comment', r.oid::regclass::text || '.' || a.attname
from relations as r
join pg_catalog.pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
where r.relkind in ('r', 'p') and pg_catalog.col_description(r.oid, a.attnum) is null
union all
select 'missing_comment', p.oid::regprocedure::text
from pg_catalog.pg_namespace as n
cross join lateral (  -- the schemas first: the description of each is another look
  select p.oid from pg_catalog.pg_proc as p where p.pronamespace = n.oid offset 0) as p
where n.nspname in ('app', 'app_private', 'ops', 'tenant')
  and pg_catalog.obj_description(p.oid, 'pg_proc') is null
union all
-- The name of a constraint is what a person reads when it is broken.
select 'constraint_named_by_postgres', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
join relations as r on r.oid = k.conrelid
where (k.contype = 'c' and k.conname ~ '_check[0-9]*$')
  or (k.contype in ('u', 'x') and k.conname ~ '_(key|excl)[0-9]*$')
union all
select 'foreign_key_without_index', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
join relations as r on r.oid = k.conrelid
where k.contype = 'f'
  and not exists (
    select from pg_catalog.pg_index as i
    where i.indrelid = k.conrelid and i.indpred is null
      and (string_to_array(i.indkey::text, ' ')::smallint[])[1:cardinality(k.conkey)] @> k.conkey)
union all
select 'foreign_key_without_on_delete', k.conrelid::regclass::text || ' ' || k.conname
from pg_catalog.pg_constraint as k
join relations as r on r.oid = k.conrelid
where k.contype = 'f' and k.confdeltype = 'a';

comment on view app_private.lint_names is
  'Objects without a comment, constraints without a name of ours, foreign keys without index or on delete.';
--! EndIncluded app_private/lint_names.sql
--! Included app_private/lint.sql
create or replace view app_private.lint as
select l.rule, l.object from app_private.lint_isolation as l
union all
select l.rule, l.object from app_private.lint_rights as l
union all
select l.rule, l.object from app_private.lint_reach as l
union all
select l.rule, l.object from app_private.lint_functions as l
union all
select l.rule, l.object from app_private.lint_names as l
order by rule, object;

comment on view app_private.lint is
  'House rules that are broken here; empty when all is well. Each row is a rule and the object that breaks it.';

grant select on app_private.lint to holdfast_ops;
--! EndIncluded app_private/lint.sql
--! Included app_private/schema_snapshot.sql
create or replace view app_private.schema_snapshot as
with relations as (
  select c.oid, c.relkind, c.reltype, c.relowner, c.relacl, c.reloptions, c.relrowsecurity,
         c.relforcerowsecurity
  from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n
    on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
  where c.relkind in ('r', 'p', 'v', 'm', 'c', 'S')
    and not c.relispartition  -- partitions depend on the day they were made
)
select 'relation' as kind, r.oid::regclass::text as name,
       concat_ws(' ', r.relkind, r.relowner::regrole, r.reloptions, r.relrowsecurity, r.relforcerowsecurity,
         pg_catalog.pg_get_partkeydef(r.oid),
         case when r.relkind in ('v', 'm') then pg_catalog.pg_get_viewdef(r.oid) end,
         (select string_agg(x::text, ' ' order by x::text) from unnest(r.relacl) as x),
         (select string_agg(x::text, ' ' order by x::text)
          from pg_catalog.pg_type as t cross join lateral unnest(t.typacl) as x where t.typrelid = r.oid),
         pg_catalog.obj_description(r.oid, 'pg_class'),
         case when r.relkind = 'c' then pg_catalog.obj_description(r.reltype, 'pg_type') end) as definition
from relations as r
union all
select 'column', r.oid::regclass::text || '.' || a.attname,
       concat_ws(' ', a.attnum, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated,
         a.attidentity, a.attstorage, a.attacl,
         pg_catalog.pg_get_expr(d.adbin, d.adrelid), pg_catalog.col_description(r.oid, a.attnum))
from relations as r
join pg_catalog.pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
union all
select 'constraint', r.oid::regclass::text || ' ' || k.conname, pg_catalog.pg_get_constraintdef(k.oid)
from relations as r
join pg_catalog.pg_constraint as k on k.conrelid = r.oid and k.contype <> 'n'
union all
select 'index', i.indexrelid::regclass::text,
       concat_ws(' ', i.indisvalid, pg_catalog.pg_get_indexdef(i.indexrelid))
from relations as r
join pg_catalog.pg_index as i on i.indrelid = r.oid
union all
select 'trigger', r.oid::regclass::text || ' ' || t.tgname,
       concat_ws(' ', t.tgenabled, pg_catalog.pg_get_triggerdef(t.oid))
from relations as r
join pg_catalog.pg_trigger as t on t.tgrelid = r.oid and not t.tgisinternal
union all
select 'policy', r.oid::regclass::text || ' ' || p.polname,
       concat_ws(' ', p.polcmd, p.polpermissive, p.polroles::regrole[],
         pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
from relations as r
join pg_catalog.pg_policy as p on p.polrelid = r.oid
union all
select 'function', p.oid::regprocedure::text,
       concat_ws(' ', p.proowner::regrole, pg_catalog.pg_get_functiondef(p.oid),
         (select string_agg(x::text, ' ' order by x::text) from unnest(p.proacl) as x),
         pg_catalog.obj_description(p.oid, 'pg_proc'))
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n
  on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
where p.prokind <> 'a'
union all
select 'default_privileges',
       concat_ws(' ', d.defaclrole::regrole, nullif(d.defaclnamespace, 0)::regnamespace, d.defaclobjtype),
       (select string_agg(x::text, ' ' order by x::text) from unnest(d.defaclacl) as x)
from pg_catalog.pg_default_acl as d
where pg_catalog.pg_get_userbyid(d.defaclrole) in ('holdfast_owner', 'holdfast_system')
union all
select 'schema', n.nspname,
       concat_ws(' ', n.nspowner::regrole,
         (select string_agg(x::text, ' ' order by x::text) from unnest(n.nspacl) as x),
         pg_catalog.obj_description(n.oid, 'pg_namespace'))
from pg_catalog.pg_namespace as n
where n.nspname in ('app', 'app_private', 'ops', 'tenant');

comment on view app_private.schema_snapshot is
  'Everything that the files of sql/ and the migrations must agree on, as text: columns, constraints, indexes, '
  'functions with their settings, triggers, policies, owners and grants.';
--! EndIncluded app_private/schema_snapshot.sql

-- The doctor: whether tenants are kept apart here as they should be.
--! Included app_private/doctor_role_settings.sql
create or replace view app_private.doctor_role_settings as
select coalesce(r.rolname::text, 'all') as role, d.datname as database,
       pg_catalog.split_part(c.setting, '=', 1) as name,
       pg_catalog.substr(c.setting, pg_catalog.strpos(c.setting, '=') + 1) as value
from pg_catalog.pg_db_role_setting as s
left join pg_catalog.pg_roles as r on r.oid = s.setrole
left join pg_catalog.pg_database as d on d.oid = s.setdatabase
cross join lateral pg_catalog.unnest(s.setconfig) as c (setting)
where (s.setdatabase = 0 or d.datname = pg_catalog.current_database())
  and (s.setrole = 0 or pg_catalog.starts_with(r.rolname::text, 'holdfast_'));

comment on view app_private.doctor_role_settings is
  'What our roles, and all roles, start with in this database: what ALTER ROLE and ALTER DATABASE set.';
--! EndIncluded app_private/doctor_role_settings.sql
--! Included app_private/doctor_checks.sql
create or replace view app_private.doctor_checks as
select c.checked, c.asked
from (values
  ('server_version',       'enforces row security everywhere'),
  ('session_row_security', 'is on in this session'),
  ('role_attributes',      'every role is there and is no more than it must be'),
  ('role_memberships',     'who may become whom: as in roles.sql, and nobody else'),
  ('role_settings',        'the logins of the shell start with row_security = off, with timeouts, as agreed'),
  ('parameter_rights',     'no login of the shell may set what is the superuser''s'),
  ('owners',               'the database, the schemas and the tables belong to holdfast_owner'),
  ('row_security_forced',  'every table of tenants binds everybody, its owner too'),
  ('policies',             'none is for everybody'),
  ('table_rights',         'the tenant role reads what is behind the fence, the logins read nothing'),
  ('definer_functions',    'no function from elsewhere lends its owner''s rights'),
  ('schema_rights',        'nobody may make an object'),
  ('database_rights',      'our logins connect, nobody else; no temporary tables'),
  ('lint',                 'no house rule is broken'),
  ('partitions',           'are made beyond this month and the next'),
  ('ticket_keys',          'at least one is in use'),
  ('ticket_key_end',       'a key without an end is in use'),
  ('ticket_binding',       'every ticket is good for one backend'),
  -- Here a superuser must have helped, with superuser.sql: without, tenants are apart, but not as far.
  ('signals',              'no session ends another'),
  ('activity',             'no session watches another'),
  ('volume',               'live counters are for people and monitors'),
  ('advisory_locks',       'are the owner''s'),
  ('large_objects',        'are nobody''s'),
  ('wal_messages',         'are nobody''s'),
  ('exported_snapshots',   'are for the backup'),
  ('server_files',         'are out of reach'),
  ('languages',            'only owners write functions'),
  ('extensions',           'none that PostgreSQL does not trust is for everybody'),
  ('ddl',                  'the login of tenants'' sessions is refused before it asks for a lock'),
  ('temporary_files',      'a session of that login cannot fill the disk'),
  ('logged_parameters',    'no ticket comes into the server''s log'),
  ('logged_plans',         'auto_explain is not loaded here, or is off for the logins'),
  ('backup_role',          'reads all and writes nothing'),
  ('replicator_role',      'streams, and is no more')
) as c (checked, asked);

comment on view app_private.doctor_checks is
  'What ops.doctor() asks, one row for each check, and what is true when its answer is ok.';

grant select on app_private.doctor_checks to holdfast_ops;
--! EndIncluded app_private/doctor_checks.sql
--! Included app_private/doctor_server.sql
create or replace view app_private.doctor_server as
with server as (
  -- Below these, a hidden row can leak through ON CONFLICT; of a major version not listed, nothing is known.
  select pg_catalog.current_setting('server_version') as version,
         coalesce(bool_or(n.number >= f.floor), false) as safe
  from (values (pg_catalog.current_setting('server_version_num')::integer)) as n (number)
  left join (values (15, 150020), (16, 160016), (17, 170012), (18, 180007)) as f (major, floor)
    on f.major = n.number / 10000
)
select 'server_version' as checked, case when s.safe then 'ok' else 'fault' end as state,
       'PostgreSQL ' || s.version || case when s.safe then '' else ' can show a hidden row' end as found,
       case when not s.safe then '-- Install 15.20, 16.16, 17.12, 18.7 or later in these.' end as fix
from server as s
union all
select 'session_row_security', 'warning', 'off: the views of ops are refused here', 'set row_security = on;'
where pg_catalog.current_setting('row_security')::boolean is false;

comment on view app_private.doctor_server is
  'What ops.doctor() says about the server''s version and this session.';

grant select on app_private.doctor_server to holdfast_ops;
--! EndIncluded app_private/doctor_server.sql
--! Included app_private/doctor_roles.sql
create or replace view app_private.doctor_roles as
with wanted (checked, rolname, login, inherits, bypasses, replicates, afterwards) as (
  values
    ('role_attributes', 'holdfast_owner',   false, false, false, false, null),
    ('role_attributes', 'holdfast_system',  false, true,  false, false, null),
    ('role_attributes', 'holdfast_tenant',  false, true,  false, false, null),
    ('role_attributes', 'holdfast_admin',   true,  false, false, false, null),
    ('role_attributes', 'holdfast_service', true,  false, false, false, null),
    ('role_attributes', 'holdfast_worker',  true,  false, false, false, null),
    ('role_attributes', 'holdfast_ops',     true,  false, false, false, null),
    ('role_attributes', 'holdfast_metrics', false, true,  false, false, null),
    ('backup_role', 'holdfast_backup', true, true, true, false,
     pg_catalog.format(' grant pg_read_all_data to holdfast_backup; '
       'alter role holdfast_backup set default_transaction_read_only = on; '
       'grant connect on database %I to holdfast_backup;', pg_catalog.current_database())),
    ('replicator_role', 'holdfast_replicator', true, false, false, true, null)
), compared as (
  select w.checked, w.rolname, w.afterwards, r.oid, x.present, x.wish
  from wanted as w
  left join pg_catalog.pg_roles as r on r.rolname = w.rolname
  cross join lateral (values
    (r.rolcanlogin,    w.login,      'login'),
    (r.rolinherit,     w.inherits,   'inherit'),
    (r.rolbypassrls,   w.bypasses,   'bypassrls'),
    (r.rolreplication, w.replicates, 'replication'),
    (r.rolsuper,       false,        'superuser'),
    (r.rolcreaterole,  false,        'createrole'),
    (r.rolcreatedb,    false,        'createdb')) as a (present, wish, name)
  cross join lateral (
    select case when a.present then a.name else 'no' || a.name end as present,
           case when a.wish then a.name else 'no' || a.name end as wish) as x
)
-- A login that a superuser makes may be missing; one that is there and is not what it must be is worse.
select c.checked, case when c.checked = 'role_attributes' then 'fault' else 'warning' end as state,
       c.rolname || ' is missing' as found,
       pg_catalog.format('create role %I %s;', c.rolname,
         string_agg(c.wish, ' ' order by c.wish) filter (where c.wish !~ '^no(?!inherit|login)'))
         || coalesce(c.afterwards, '') as fix
from compared as c
where c.oid is null
group by c.checked, c.rolname, c.afterwards
union all
select c.checked, 'fault', c.rolname || ' is ' || string_agg(c.present, ', ' order by c.present),
       pg_catalog.format('alter role %I %s;', c.rolname, string_agg(c.wish, ' ' order by c.wish))
from compared as c
where c.oid is not null and c.present <> c.wish
group by c.checked, c.rolname;

comment on view app_private.doctor_roles is
  'Roles that are missing, or whose attributes are not those of roles.sql and superuser.sql.';

grant select on app_private.doctor_roles to holdfast_ops;
--! EndIncluded app_private/doctor_roles.sql
--! Included app_private/doctor_memberships.sql
create or replace view app_private.doctor_memberships as
with wanted (checked, role, member, inherits) as (
  values
    ('role_memberships', 'holdfast_system',  'holdfast_owner',   false),
    ('role_memberships', 'holdfast_owner',   'holdfast_admin',   false),
    ('role_memberships', 'holdfast_tenant',  'holdfast_service', false),
    ('role_memberships', 'holdfast_tenant',  'holdfast_ops',     false),
    ('backup_role',      'pg_read_all_data', 'holdfast_backup',  true)
), present as (
  select g.rolname as role, m.rolname as member, a.admin_option, m.rolsuper or m.rolcreaterole as administers,
         coalesce((pg_catalog.to_jsonb(a) ->> 'inherit_option')::boolean, m.rolinherit) as inherits,
         -- Until 15, naming who granted it is not needed, and refused to all but a superuser.
         case when pg_catalog.to_jsonb(a) ? 'set_option'
           then pg_catalog.format(' granted by %I', pg_catalog.pg_get_userbyid(a.grantor)) end as granted_by
  from pg_catalog.pg_auth_members as a
  join pg_catalog.pg_roles as g on g.oid = a.roleid
  join pg_catalog.pg_roles as m on m.oid = a.member
  where pg_catalog.starts_with(g.rolname::text, 'holdfast_')
    or pg_catalog.starts_with(m.rolname::text, 'holdfast_')
)
select w.checked, 'fault' as state, w.member || ' is no member of ' || w.role as found,
       pg_catalog.format('grant %I to %I;', w.role, w.member) as fix
from wanted as w
where pg_catalog.to_regrole(w.role) is not null and pg_catalog.to_regrole(w.member) is not null
  and not exists (select from present as p where p.role = w.role and p.member = w.member)
union all
-- People may be ops or metrics, these may be monitors, and who administers roles could give itself any.
select 'role_memberships', 'fault', p.member || ' is a member of ' || p.role,
       pg_catalog.format('revoke %I from %I%s;', p.role, p.member, p.granted_by)
from present as p
where not exists (select from wanted as w where w.role = p.role and w.member = p.member)
  and not p.administers
  and not (p.role in ('holdfast_ops', 'holdfast_metrics') and p.member !~ '^holdfast_')
  and not (p.member in ('holdfast_ops', 'holdfast_metrics')
    and p.role in ('pg_monitor', 'pg_read_all_stats', 'pg_read_all_settings', 'pg_signal_backend'))
union all
select w.checked, 'fault', p.member || ' may give ' || p.role || ' to others',
       pg_catalog.format('revoke admin option for %I from %I%s;', p.role, p.member, p.granted_by)
from wanted as w
join present as p on p.role = w.role and p.member = w.member and p.admin_option
union all
-- Inherited, the rights of a role are there without becoming it. Until 15 the member's attribute decides.
select w.checked, 'fault',
       p.member || case when w.inherits then ' does not inherit ' else ' inherits ' end || p.role,
       pg_catalog.format('grant %I to %I with inherit %s%s;', p.role, p.member,
         case when w.inherits then 'true' else 'false' end, p.granted_by)
from wanted as w
join present as p on p.role = w.role and p.member = w.member and p.inherits <> w.inherits
where p.granted_by is not null;

comment on view app_private.doctor_memberships is
  'Memberships that are missing, that nobody granted on purpose, or that give more than they must.';

grant select on app_private.doctor_memberships to holdfast_ops;
--! EndIncluded app_private/doctor_memberships.sql
--! Included app_private/doctor_settings.sql
create or replace view app_private.doctor_settings as
with wanted (checked, role, name, value, good) as (
  select 'role_settings', r.role, s.name, s.value, s.good
  from (values ('holdfast_service'), ('holdfast_worker')) as r (role)
  cross join (values
    ('row_security', 'off', '^(off|false|no|0)$'),  -- until app.enter turns it on for its transaction
    ('statement_timeout', '15s', '[1-9]'),
    ('idle_in_transaction_session_timeout', '15s', '[1-9]'),
    ('client_connection_check_interval', '1s', '[1-9]')) as s (name, value, good)
  union all
  -- A ticket is a parameter. What it is not: a part of a statement's text.
  select 'logged_parameters', r.role, s.name, '0', '^0$'
  from (values ('holdfast_service'), ('holdfast_worker'), ('holdfast_ops')) as r (role)
  cross join (values ('log_parameter_max_length'), ('log_parameter_max_length_on_error')) as s (name)
  union all
  -- Before 16 it has no setting that leaves parameters out, and its plans hold them anyhow.
  select 'logged_plans', r.role, 'auto_explain.log_min_duration', '-1', '^-1$'
  from (values ('holdfast_service'), ('holdfast_worker'), ('holdfast_ops')) as r (role)
  where pg_catalog.current_setting('auto_explain.log_min_duration', true) is not null
  union all
  select 'temporary_files', 'holdfast_service', 'temp_file_limit', '1GB', '^\d'
  union all
  select 'backup_role', 'holdfast_backup', 'default_transaction_read_only', 'on', '^(on|true|yes|1)$'
)
-- What is set "in database" goes before what is set for the role, and is lost in a clone.
select w.checked, case when w.checked = 'role_settings' then 'fault' else 'warning' end as state,
       w.role || ' has ' || coalesce(s.name || ' = ' || s.value, 'no ' || w.name) as found,
       pg_catalog.format('alter role %I set %s = %L;', w.role, w.name, w.value) as fix
from wanted as w
left join app_private.doctor_role_settings as s
  on s.role = w.role and s.name = w.name and s.database is null
where pg_catalog.to_regrole(w.role) is not null
  and not coalesce(s.value ~ w.good, false)
union all
select w.checked, case when w.checked = 'role_settings' then 'fault' else 'warning' end,
       pg_catalog.format('%s has %s = %s in this database', s.role, s.name, s.value),
       pg_catalog.format('alter role %I in database %I reset %s;', s.role, s.database, s.name)
from wanted as w
join app_private.doctor_role_settings as s on s.role = w.role and s.name = w.name and s.database is not null
union all
-- Triggers and foreign keys would be off. And a login may change what it starts with itself, for all who come
-- after: how values are read, what it becomes. What tunes a query or bounds it is left to whoever set it.
select 'role_settings', 'fault', pg_catalog.format('%s starts with %s = %s', s.role, s.name, s.value),
       pg_catalog.format('alter %s reset %s;', case
         when s.role = 'all' and s.database is not null then pg_catalog.format('database %I', s.database)
         when s.role = 'all' then 'role all'
         when s.database is not null then pg_catalog.format('role %I in database %I', s.role, s.database)
         else pg_catalog.format('role %I', s.role) end, s.name)
from app_private.doctor_role_settings as s
where s.name = 'session_replication_role'
  or (s.role in ('holdfast_service', 'holdfast_worker')
    and s.name !~ '_timeout$' and not exists (select from wanted as w where w.name = s.name)
    and not exists (
      select from pg_catalog.pg_settings as g
      where g.name = s.name and g.category ~ '^(Query Tuning|Resource|Reporting|Statistics|Autovacuum)'));

comment on view app_private.doctor_settings is
  'Settings that a login must start with and does not, or that another place overrides.';

grant select on app_private.doctor_settings to holdfast_ops;
--! EndIncluded app_private/doctor_settings.sql
--! Included app_private/doctor_owners.sql
create or replace view app_private.doctor_owners as
with schemas as (
  select n.oid, n.nspname, n.nspowner, n.nspname in ('graphile_worker', 'graphile_migrate') as theirs
  from pg_catalog.pg_namespace as n
  where n.nspname in ('app', 'app_private', 'ops', 'tenant', 'graphile_worker', 'graphile_migrate')
), owned as (
  select 'database' as kind, pg_catalog.quote_ident(d.datname) as name, d.datdba as owner
  from pg_catalog.pg_database as d
  where d.datname = pg_catalog.current_database()
  union all
  select 'schema', pg_catalog.quote_ident(s.nspname), s.nspowner
  from schemas as s
  union all
  select case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end,
         c.oid::regclass::text, c.relowner
  from schemas as s
  join pg_catalog.pg_class as c on c.relnamespace = s.oid
  where c.relkind in ('r', 'p')
    or (s.theirs and c.relkind in ('S', 'v') and not exists (  -- a column's own sequence goes with its table
      select from pg_catalog.pg_depend as d where d.objid = c.oid and d.deptype in ('a', 'i')))
  union all
  select 'routine', p.oid::regprocedure::text, p.proowner
  from schemas as s
  join pg_catalog.pg_proc as p on p.pronamespace = s.oid
  where s.theirs
)
-- Row security binds holdfast_owner because it is forced, and would bind no superuser. Views and functions of
-- ours are in the lint: some of them belong to holdfast_system.
select 'owners' as checked, 'fault' as state,
       pg_catalog.format('%s %s belongs to %s', o.kind, o.name, pg_catalog.pg_get_userbyid(o.owner)) as found,
       pg_catalog.format('alter %s %s owner to holdfast_owner;', o.kind, o.name) as fix
from owned as o
where pg_catalog.pg_get_userbyid(o.owner) <> 'holdfast_owner';

comment on view app_private.doctor_owners is
  'The database, schemas, tables, objects of the queue and the migrations that are not holdfast_owner''s.';

grant select on app_private.doctor_owners to holdfast_ops;
--! EndIncluded app_private/doctor_owners.sql
--! Included app_private/doctor_isolation.sql
create or replace view app_private.doctor_isolation as
-- The queue's own tables have no tenant in them; row security keeps all but the worker out.
select 'row_security_forced' as checked, 'fault' as state,
       c.oid::regclass || case when c.relrowsecurity then ': not its owner' else ': nobody' end as found,
       pg_catalog.format('alter table %s enable row level security%s;', c.oid::regclass,
         case when t.ours then ', force row level security' end) as fix
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
cross join lateral (
  select n.nspname in ('app', 'app_private', 'ops') and exists (
      select from pg_catalog.pg_attribute as a
      where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped) as ours,
    n.nspname = 'graphile_worker' and pg_catalog.starts_with(c.relname::text, '_private_') as theirs) as t
where c.relkind in ('r', 'p')
  and ((t.ours and not (c.relrowsecurity and c.relforcerowsecurity)) or (t.theirs and not c.relrowsecurity))
union all
-- Policies are OR-ed, so one for everybody goes before all others. The lint knows which ours must be.
select 'policies', 'fault',
       pg_catalog.format('%s has %s for %s', p.polrelid::regclass, p.polname,
         case when 0 = any (p.polroles) then 'everybody' else p.polroles::regrole[]::text end),
       pg_catalog.format('drop policy %I on %s;', p.polname, p.polrelid::regclass)
from pg_catalog.pg_policy as p
join pg_catalog.pg_class as c on c.oid = p.polrelid
where 0 = any (p.polroles)
  or (c.relnamespace = pg_catalog.to_regnamespace('graphile_worker')
    and p.polroles <> array[pg_catalog.to_regrole('holdfast_worker')::oid]);

comment on view app_private.doctor_isolation is
  'Tables of tenants, and of the queue, that row security does not bind, and policies that bind too little.';

grant select on app_private.doctor_isolation to holdfast_ops;
--! EndIncluded app_private/doctor_isolation.sql
--! Included app_private/doctor_rights.sql
create or replace view app_private.doctor_rights as
with relations as (
  select c.oid, n.nspname, c.oid::regclass::text as name, c.relowner, c.relacl
  from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    and n.nspname !~ '^(pg_toast|pg_temp|information_schema$)'
    -- Of PostgreSQL's own, the catalog is for everybody; what holds values and passwords is not.
    and (n.nspname <> 'pg_catalog' or c.relname ~ '^pg_(authid|shadow|statistic|statistic_ext_data'
      '|largeobject|user_mapping|hba_file_rules|ident_file_mappings|file_settings)$')
    and not exists (  -- in doctor_extensions
      select from pg_catalog.pg_depend as d where d.objid = c.oid and d.deptype = 'e')
), rights as (
  select r.oid, r.nspname, r.name, x.grantee, x.privilege_type
  from relations as r
  cross join lateral pg_catalog.aclexplode(coalesce(r.relacl, pg_catalog.acldefault('r', r.relowner))) as x
  union
  select r.oid, r.nspname, r.name, x.grantee, x.privilege_type
  from relations as r
  join pg_catalog.pg_attribute as a on a.attrelid = r.oid and a.attacl is not null
  cross join lateral pg_catalog.aclexplode(a.attacl) as x
)
select distinct 'table_rights' as checked, 'fault' as state,
       pg_catalog.format('%s may %s %s', w.who, r.privilege_type, r.name) as found,
       pg_catalog.format('revoke %s on table %s from %s;', r.privilege_type, r.name, w.who) as fix
from rights as r
join app_private.doctor_exposed as e on r.grantee = 0 or pg_catalog.pg_has_role(e.oid, r.grantee, 'usage')
cross join lateral (
  select case when r.grantee = 0 then 'public' else r.grantee::regrole::text end as who) as w
where not (r.privilege_type = 'SELECT' and (r.name = 'app.error_codes'
  or (w.who = 'holdfast_tenant' and (r.nspname = 'tenant' or r.name in (
    'app.tiers', 'app.llm_prices', 'app.job_kinds', 'app.job_run_transitions')))))
union all
-- A function that lends its owner's rights. Ours are in the lint, those of extensions in their own check.
select distinct 'definer_functions', 'fault',
       pg_catalog.format('%s may act as %s with %s', w.who, p.proowner::regrole, p.oid::regprocedure),
       pg_catalog.format('revoke execute on routine %s from %s;', p.oid::regprocedure, w.who)
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n on n.oid = p.pronamespace and n.nspname not in ('app', 'app_private', 'ops')
cross join lateral pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) as x
join app_private.doctor_exposed as e on x.grantee = 0 or pg_catalog.pg_has_role(e.oid, x.grantee, 'usage')
cross join lateral (
  select case when x.grantee = 0 then 'public' else x.grantee::regrole::text end as who) as w
where p.prosecdef
  and not exists (select from pg_catalog.pg_depend as d where d.objid = p.oid and d.deptype = 'e');

comment on view app_private.doctor_rights is
  'Tables, and functions that lend their owner''s rights, that a tenant''s SQL can reach and should not.';

grant select on app_private.doctor_rights to holdfast_ops;
--! EndIncluded app_private/doctor_rights.sql
--! Included app_private/doctor_places.sql
create or replace view app_private.doctor_places as
with exposed as (
  select e.oid, e.rolname from app_private.doctor_exposed as e
), schemas as (
  select n.nspname, x.grantee, x.privilege_type
  from pg_catalog.pg_namespace as n
  cross join lateral pg_catalog.aclexplode(
    coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) as x
  where n.nspname !~ '^pg_(toast|temp)'
), rights as (
  select d.datname, x.grantee, x.privilege_type
  from pg_catalog.pg_database as d
  cross join lateral pg_catalog.aclexplode(
    coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) as x
  where d.datname = pg_catalog.current_database()
)
select distinct 'schema_rights' as checked, 'fault' as state,
       pg_catalog.format('%s has %s on %s', w.who, s.privilege_type, s.nspname) as found,
       pg_catalog.format('revoke %s on schema %I from %s;', s.privilege_type, s.nspname, w.who) as fix
from schemas as s
join exposed as e on s.grantee = 0 or pg_catalog.pg_has_role(e.oid, s.grantee, 'usage')
cross join lateral (
  select case when s.grantee = 0 then 'public' else s.grantee::regrole::text end as who) as w
where s.privilege_type = 'CREATE' or s.nspname in ('ops', 'graphile_worker', 'graphile_migrate')
union all
select distinct 'database_rights', 'fault',
       pg_catalog.format('%s has %s', w.who, r.privilege_type),
       pg_catalog.format('revoke %s on database %I from %s;', r.privilege_type, r.datname, w.who)
from rights as r
left join exposed as e on pg_catalog.pg_has_role(e.oid, nullif(r.grantee, 0), 'usage')
cross join lateral (
  select case when r.grantee = 0 then 'public' else r.grantee::regrole::text end as who) as w
where r.grantee = 0 or (e.oid is not null and r.privilege_type <> 'CONNECT')
union all
-- Named, for what everybody may is taken away.
select case when l.name = 'holdfast_backup' then 'backup_role' else 'database_rights' end, 'fault',
       l.name || ' may not connect',
       pg_catalog.format('grant connect on database %I to %s;', pg_catalog.current_database(), l.name)
from (values ('holdfast_admin'), ('holdfast_service'), ('holdfast_worker'), ('holdfast_ops'),
  ('holdfast_metrics'), ('holdfast_backup')) as l (name)
where pg_catalog.to_regrole(l.name) is not null
  and not exists (
    select from rights as r
    where r.grantee = pg_catalog.to_regrole(l.name) and r.privilege_type = 'CONNECT')
union all
select distinct 'parameter_rights', 'fault',
       pg_catalog.format('%s may %s %s', w.who, x.privilege_type, p.parname),
       pg_catalog.format('revoke %s on parameter %s from %s;', x.privilege_type, p.parname, w.who)
from pg_catalog.pg_parameter_acl as p
cross join lateral pg_catalog.aclexplode(p.paracl) as x
join exposed as e on x.grantee = 0 or pg_catalog.pg_has_role(e.oid, x.grantee, 'usage')
cross join lateral (
  select case when x.grantee = 0 then 'public' else x.grantee::regrole::text end as who) as w;

comment on view app_private.doctor_places is
  'The database, its schemas and its parameters: who may connect, make objects, set what is a superuser''s.';

grant select on app_private.doctor_places to holdfast_ops;
--! EndIncluded app_private/doctor_places.sql
--! Included app_private/doctor_function_groups.sql
create or replace view app_private.doctor_function_groups as
with groups (checked, state, pattern, kept_for) as (
  -- The same as in superuser.sql, where each is explained.
  values
    ('signals', 'warning', '^pg_(cancel|terminate)_backend$', 'pg_signal_backend'),
    ('activity', 'warning', '^(pg_stat_get_activity|pg_stat_get_backend_.*|pg_lock_status|pg_blocking_pids'
       '|pg_safe_snapshot_blocking_pids|pg_isolation_test_session_is_blocked)$',
     'pg_read_all_stats, holdfast_ops, holdfast_metrics, holdfast_owner, holdfast_system'),
    ('volume', 'warning', '^(pg_stat_get_(?!activity$|backend_).*|pg_(current|last)_wal_.*'
       '|pg_last_xact_replay_timestamp|pg_last_committed_xact|pg_xact_commit_timestamp.*'
       '|pg_control_checkpoint|pg_get_replication_slots'
       '|pg_available_wal_summaries|pg_wal_summary_contents|pg_get_wal_summarizer_state'
       '|pg_(relation|table|indexes|total_relation|database|tablespace)_size)$',
     'pg_read_all_stats, holdfast_ops, holdfast_metrics, holdfast_owner, holdfast_system, '
       'holdfast_replicator'),
    ('advisory_locks', 'warning', '^pg_(try_)?advisory_.*$', 'holdfast_owner, holdfast_admin'),
    ('large_objects', 'warning', '^(lo_(?!import$|export$).*|loread|lowrite)$', null),
    ('wal_messages', 'warning', '^pg_logical_emit_message$', null),
    ('exported_snapshots', 'warning', '^pg_export_snapshot$', 'holdfast_backup'),
    -- PostgreSQL keeps these to itself; somebody gave them away.
    ('server_files', 'fault', '^(pg_read_(binary_)?file|pg_stat_file|pg_ls_.*|lo_import|lo_export)$', null)
)
select g.checked, g.state, g.kept_for, p.oid,
       coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) as acl
from groups as g
join pg_catalog.pg_proc as p
  on p.pronamespace = 'pg_catalog'::regnamespace
  and p.proname ~ '^(pg_|lo)'  -- once, before the patterns are tried on each
  and p.proname ~ g.pattern;

comment on view app_private.doctor_function_groups is
  'The functions of PostgreSQL that superuser.sql takes from everybody, by the check of ops.doctor() that asks '
  'for them, and who keeps them.';
--! EndIncluded app_private/doctor_function_groups.sql
--! Included app_private/doctor_functions.sql
create or replace view app_private.doctor_functions as
with groups as materialized (
  select g.checked, g.state, g.kept_for, g.oid, g.acl from app_private.doctor_function_groups as g
), reached as (
  select g.checked, g.state, g.kept_for, g.oid, e.rolname, x.grantee, x.grantee in (0, e.oid) as directly
  from groups as g
  cross join app_private.doctor_exposed as e
  cross join lateral pg_catalog.aclexplode(g.acl) as x
  where pg_catalog.has_function_privilege(e.oid, g.oid, 'execute')
    and (x.grantee = 0 or pg_catalog.pg_has_role(e.oid, x.grantee, 'usage'))
), counted as (
  select r.checked, r.state, r.kept_for, r.grantee, r.directly,
         case when r.grantee = 0 then 'public' else r.rolname end as who,
         count(distinct r.oid) as functions, min(r.oid::regprocedure::text) as example,
         string_agg(distinct r.oid::regprocedure::text, E',\n  ') as list
  from reached as r
  group by 1, 2, 3, 4, 5, 6
), keepers as (
  select g.checked, k.name, g.oid
  from groups as g
  cross join lateral pg_catalog.string_to_table(g.kept_for, ', ') as k (name)
  join pg_catalog.pg_roles as r on r.rolname = k.name
  where not pg_catalog.has_function_privilege(r.oid, g.oid, 'execute')
)
select c.checked, c.state,
       pg_catalog.format('%s may call %s (%s in all)', c.who, c.example, c.functions) as found,
       case
         when not c.directly then pg_catalog.format('revoke %s from %s;', c.grantee::regrole, c.who)
         else pg_catalog.format('revoke execute on function %s from %s;', c.list, c.who)
           || coalesce(E'\ngrant execute on function ' || c.list || ' to ' || k.roles || ';', '')
       end as fix
from counted as c
-- Whoever must keep them, of the roles that are here.
cross join lateral (
  select string_agg(r.name, ', ') as roles
  from pg_catalog.string_to_table(c.kept_for, ', ') as r (name)
  where pg_catalog.to_regrole(r.name) is not null) as k
union all
select k.checked, 'fault',
       pg_catalog.format('%s may no longer call %s (%s in all)', k.name,
         min(k.oid::regprocedure::text), count(*)),
       pg_catalog.format('grant execute on function %s to %s;',
         string_agg(k.oid::regprocedure::text, E',\n  '), k.name)
from keepers as k
group by k.checked, k.name;

comment on view app_private.doctor_functions is
  'Functions of PostgreSQL that a tenant''s SQL can still call, or that whoever needs them no longer can.';

grant select on app_private.doctor_functions to holdfast_ops;
--! EndIncluded app_private/doctor_functions.sql
--! Included app_private/doctor_languages.sql
create or replace view app_private.doctor_languages as
with reached as (
  select l.lanname, x.grantee, e.rolname
  from pg_catalog.pg_language as l
  cross join app_private.doctor_exposed as e
  cross join lateral pg_catalog.aclexplode(
    coalesce(l.lanacl, pg_catalog.acldefault('l', l.lanowner))) as x
  where l.lanpltrusted and l.lanname <> 'sql'
    and pg_catalog.has_language_privilege(e.oid, l.oid, 'usage')
    and (x.grantee = 0 or pg_catalog.pg_has_role(e.oid, x.grantee, 'usage'))
), grantees as (
  select distinct r.lanname, case when r.grantee = 0 then 'public' else r.grantee::regrole::text end as who
  from reached as r
)
select 'languages' as checked, 'warning' as state,
       pg_catalog.format('%s may write %s', g.who, g.lanname) as found,
       pg_catalog.format(
         E'revoke usage on language %1$I from %2$s;\n'
         'grant usage on language %1$I to holdfast_owner, holdfast_system, holdfast_admin;',
         g.lanname, g.who) as fix
from grantees as g
union all
select 'languages', 'fault', pg_catalog.format('%s may no longer write plpgsql', k.name),
       pg_catalog.format('grant usage on language plpgsql to %s;', k.name)
from (values ('holdfast_owner'), ('holdfast_system'), ('holdfast_admin')) as k (name)
join pg_catalog.pg_roles as r on r.rolname = k.name
where not pg_catalog.has_language_privilege(r.oid, 'plpgsql', 'usage');

comment on view app_private.doctor_languages is
  'Languages in which a tenant''s SQL could write a program of its own, with DO, or owners no longer can.';

grant select on app_private.doctor_languages to holdfast_ops;
--! EndIncluded app_private/doctor_languages.sql
--! Included app_private/doctor_extensions.sql
create or replace view app_private.doctor_extensions as
with untrusted as (
  select e.oid, e.extname
  from pg_catalog.pg_extension as e
  where e.extname not in ('plpgsql', 'btree_gist')  -- trusted: else files of the server are read each time
    and (
      select v.trusted from pg_catalog.pg_available_extension_versions as v
      where v.name = e.extname and v.version = e.extversion) is not true
), members as (
  select u.extname, d.classid, d.objid
  from untrusted as u
  join pg_catalog.pg_depend as d
    on d.refclassid = 'pg_extension'::regclass and d.refobjid = u.oid and d.deptype = 'e'
), objects as (
  select m.extname, 'execute on routine' as rights, p.oid::regprocedure::text as name,
         coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) as acl
  from members as m
  join pg_catalog.pg_proc as p on m.classid = 'pg_proc'::regclass and p.oid = m.objid
  union all
  select m.extname, 'all on table', c.oid::regclass::text,
         coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))
  from members as m
  join pg_catalog.pg_class as c
    on m.classid = 'pg_class'::regclass and c.oid = m.objid and c.relkind in ('r', 'p', 'v', 'm', 'f')
  union all
  select m.extname, 'usage on foreign data wrapper', pg_catalog.quote_ident(w.fdwname),
         coalesce(w.fdwacl, pg_catalog.acldefault('F', w.fdwowner))
  from members as m
  join pg_catalog.pg_foreign_data_wrapper as w
    on m.classid = 'pg_foreign_data_wrapper'::regclass and w.oid = m.objid
  union all
  -- No member of an extension, but what one is for: a way to another server.
  select 'a server', 'usage on foreign server', pg_catalog.quote_ident(s.srvname),
         coalesce(s.srvacl, pg_catalog.acldefault('S', s.srvowner))
  from pg_catalog.pg_foreign_server as s
), reached as (
  select distinct o.extname, o.rights, o.name,
         case when x.grantee = 0 then 'public' else x.grantee::regrole::text end as who
  from objects as o
  cross join app_private.doctor_exposed as e
  cross join lateral pg_catalog.aclexplode(o.acl) as x
  where x.grantee = 0 or pg_catalog.pg_has_role(e.oid, x.grantee, 'usage')
)
select 'extensions' as checked, 'warning' as state,
       pg_catalog.format('%s may use %s: %s (%s in all)', r.who, r.extname, min(r.name), count(*)) as found,
       pg_catalog.format('revoke %s %s from %s;',
         r.rights, string_agg(r.name, ', ' order by r.name), r.who) as fix
from reached as r
group by r.extname, r.rights, r.who;

comment on view app_private.doctor_extensions is
  'What a tenant''s SQL can reach of extensions that PostgreSQL does not trust, and of other servers.';

grant select on app_private.doctor_extensions to holdfast_ops;
--! EndIncluded app_private/doctor_extensions.sql
--! Included app_private/doctor_ddl.sql
create or replace view app_private.doctor_ddl as
with guard as (
  select t.evtenabled,
         t.evtevent = 'ddl_command_start' and t.evttags is null
           and n.nspname = 'holdfast_guard' and p.proname = 'no_ddl' and not p.prosecdef
           and coalesce(p.proconfig = array['search_path=""'], false)
           -- The same text as in superuser.sql.
           and p.prosrc = ' begin if session_user = ''holdfast_service'' then '
             'raise insufficient_privilege using message = ''no DDL for this login''; '
             'end if; end ' as as_made,
         -- It runs as whoever does the DDL, a superuser too; and who owns the schema may drop it.
         f.rolsuper and o.rolsuper as safe
  from pg_catalog.pg_event_trigger as t
  join pg_catalog.pg_proc as p on p.oid = t.evtfoid
  join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
  join pg_catalog.pg_roles as f on f.oid = p.proowner
  join pg_catalog.pg_roles as o on o.oid = n.nspowner
  where t.evtname = 'holdfast_no_ddl'
)
select 'ddl' as checked, 'warning' as state, s.found, s.fix
from (values
  (not exists (select from guard), 'holdfast_service may queue for a lock on any table',
   '-- Let a superuser run sql/superuser.sql in this database.'),
  (exists (select from guard as g where g.evtenabled <> 'A'), 'holdfast_no_ddl is not always enabled',
   'alter event trigger holdfast_no_ddl enable always;'),
  (exists (select from guard as g where not g.as_made), 'holdfast_no_ddl does something else',
   '-- Let a superuser look at it, and run sql/superuser.sql in this database.'),
  (exists (select from guard as g where not g.safe), 'holdfast_no_ddl runs what is no superuser''s',
   '-- Let a superuser look at it, and run sql/superuser.sql in this database.'),
  -- There from 17 on.
  (pg_catalog.current_setting('event_triggers', true) = 'off', 'event_triggers = off',
   '-- Let a superuser set event_triggers = on, where it is off.')
) as s (wrong, found, fix)
where s.wrong;

comment on view app_private.doctor_ddl is
  'The event trigger that refuses DDL to holdfast_service before it asks for a lock: absent, off or another.';

grant select on app_private.doctor_ddl to holdfast_ops;
--! EndIncluded app_private/doctor_ddl.sql
--! Included app_private/doctor_upkeep.sql
create or replace view app_private.doctor_upkeep as
with broken as (
  select count(*) as rules, min(l.rule || ' ' || l.object) as example from app_private.lint as l
), months as (
  select c.oid, c.oid::regclass::text as name, m.month
  from pg_catalog.pg_class as c
  cross join (values
    (pg_catalog.date_trunc('month', pg_catalog.now() at time zone 'UTC')),
    (pg_catalog.date_trunc('month', pg_catalog.now() at time zone 'UTC') + interval '1 month')) as m (month)
  where c.relnamespace = 'app'::regnamespace and c.relkind = 'p'
), keys as (
  select count(*) as used, count(*) filter (where k.not_after is null) as lasting,
         max(k.not_after) as ends_at,
         string_agg(k.kid::text, ', ' order by k.kid) filter (where k.binding = 'none') as unbound
  from app_private.ticket_keys as k
  where k.not_after is null or k.not_after > pg_catalog.now()
)
select 'lint' as checked, 'fault' as state,
       pg_catalog.format('%s broken, such as %s', b.rules, b.example) as found,
       '-- select * from app_private.lint; then mend each in its file of sql/.' as fix
from broken as b
where b.rules > 0
union all
-- What belongs to a month without its partition is refused: no run starts, no call is held.
select 'partitions', 'fault',
       pg_catalog.format('%s has none for %s', m.name, pg_catalog.to_char(m.month, 'YYYY-MM')),
       'select * from app.maintain();'
from months as m
where not exists (
  select from pg_catalog.pg_inherits as i
  join pg_catalog.pg_class as p on p.oid = i.inhrelid
  where i.inhparent = m.oid and p.relname ~ (pg_catalog.to_char(m.month, '"_y"YYYY"m"MM') || '$'))
union all
select 'ticket_keys', case when k.used = 0 then 'fault' else 'ok' end,
       pg_catalog.format('%s in use', k.used),
       case when k.used = 0 then '-- TICKET_KEY=… TICKET_KEY_ID=… npm run db:migrate' end
from keys as k
union all
select 'ticket_key_end', 'warning',
       pg_catalog.format('no ticket opens anything from %s on', k.ends_at at time zone 'UTC'),
       '-- TICKET_KEY=… TICKET_KEY_ID=… npm run db:migrate, with a new key and number'
from keys as k
where k.used > 0 and k.lasting = 0
union all
-- Right behind a transaction pooler, and nowhere else; the database cannot know which it is.
select 'ticket_binding', 'ok',
       pg_catalog.format('none for key %s: its tickets may fit every backend, as a pooler needs', k.unbound),
       null
from keys as k
where k.unbound is not null;

comment on view app_private.doctor_upkeep is
  'What is due: broken house rules, partitions of months to come, and the keys of tickets. No key is shown.';

grant select on app_private.doctor_upkeep to holdfast_ops;
--! EndIncluded app_private/doctor_upkeep.sql
--! Included ops/doctor.sql
create or replace function ops.doctor() returns table (checked text, state text, found text, fix text)
language sql
stable
set search_path = ''
set jit = off  -- compiling would take longer than looking
as $$
  with said as (
    select d.* from app_private.doctor_server as d
    union all select d.* from app_private.doctor_roles as d
    union all select d.* from app_private.doctor_memberships as d
    union all select d.* from app_private.doctor_settings as d
    union all select d.* from app_private.doctor_owners as d
    union all select d.* from app_private.doctor_isolation as d
    union all select d.* from app_private.doctor_rights as d
    union all select d.* from app_private.doctor_places as d
    union all select d.* from app_private.doctor_functions as d
    union all select d.* from app_private.doctor_languages as d
    union all select d.* from app_private.doctor_extensions as d
    union all select d.* from app_private.doctor_ddl as d
    union all select d.* from app_private.doctor_upkeep as d
  ), gathered as (
    select s.checked, bool_or(s.state = 'fault') as faulty, bool_or(s.state = 'warning') as doubtful,
           pg_catalog.string_agg(s.found, '; ' order by s.state, s.found) as found,
           pg_catalog.string_agg(distinct s.fix, E'\n') as fix
    from said as s
    group by s.checked
  )
  select c.checked, x.state, coalesce(g.found, c.asked), g.fix
  from app_private.doctor_checks as c
  full join gathered as g using (checked)
  cross join lateral (
    select case when g.faulty then 'fault' when g.doubtful then 'warning' else 'ok' end as state) as x
  order by pg_catalog.array_position(array['fault', 'warning', 'ok'], x.state), c.checked
$$;

comment on function ops.doctor is
  'Whether tenants are kept apart here as they should be: one row for each check, faults first. fault: '
  'isolation is broken, or the system does not work. warning: a superuser''s help is missing.';

grant execute on function ops.doctor to holdfast_ops;
--! EndIncluded ops/doctor.sql
