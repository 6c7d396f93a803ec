--! Previous: -
--! Hash: sha1:57e40c79fa36eba266a29aaaae395a8fb2382fb1
--! Message: first schema

--! Included index.sql
-- The whole database in load order. A new database is this file; an old one is migrations/.
-- roles.sql comes before it (cluster-wide) and worker_grants.sql after it (the queue's own schema).

-- The ground: schemas, identifiers, error codes, tickets, isolation.
--! Included app_private/schema.sql
-- Who may do what by default: nobody. Roles come from roles.sql, before this file.
create schema if not exists app;
create schema if not exists app_private;
create schema if not exists ops;

comment on schema app is 'The contract: tables under row security, and the functions that the shell calls.';
comment on schema app_private is
  'Internals: tickets, isolation, triggers. Nobody calls them but what is granted by name.';
comment on schema ops is 'For people in psql: views to \watch and functions. Start with: select * from ops.help;';

alter default privileges revoke execute on functions from public;
set local role holdfast_system;
alter default privileges revoke execute on functions from public;
set local role holdfast_owner;

grant usage on schema app
  to holdfast_service, holdfast_worker, holdfast_tenant, holdfast_system, holdfast_ops;
grant usage on schema app_private
  to holdfast_tenant, holdfast_system, holdfast_service, holdfast_worker, holdfast_ops;
grant usage on schema ops to holdfast_ops, holdfast_system, holdfast_metrics;
grant create on schema app, app_private, ops to holdfast_system;

create extension if not exists btree_gist with schema public;
--! EndIncluded app_private/schema.sql
--! Included app_private/uuid_v7.sql
create or replace function app_private.uuid_v7() returns uuid
language sql
volatile
parallel safe
set search_path = ''
as $$
  -- Over a random UUID: 48 bits of milliseconds, the version 7, and 12 bits of the fraction of the millisecond, so that
  -- ids made one after the other sort so, down to the microsecond of the clock.
  select pg_catalog.encode(
    overlay(pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
      placing substring(pg_catalog.int8send(pg_catalog.floor(t.ms)::bigint) from 3)
        || substring(pg_catalog.int4send(28672
             + pg_catalog.floor((t.ms - pg_catalog.floor(t.ms)) * 4096)::integer) from 3)
      from 1 for 8),
    'hex')::uuid
  from (select extract(epoch from pg_catalog.clock_timestamp()) * 1000 as ms) as t
$$;

comment on function app_private.uuid_v7 is
  'A UUID of version 7 (RFC 9562, section 5.7, with the fraction of section 6.2, method 3): it sorts by the moment it '
  'was made. PostgreSQL 15 has none of its own.';

grant execute on function app_private.uuid_v7 to holdfast_system;
--! EndIncluded app_private/uuid_v7.sql
--! Included app_private/uuid_v7_floor.sql
create or replace function app_private.uuid_v7_floor(at timestamptz) returns uuid
language sql
immutable
parallel safe
set search_path = ''
as $$
  select (pg_catalog.lpad(pg_catalog.to_hex((extract(epoch from at) * 1000)::bigint), 12, '0')
    || '0000' || '0000' || '000000000000')::uuid
$$;

comment on function app_private.uuid_v7_floor is
  'The smallest identifier that uuid_v7 could make at that moment; partition bounds and time ranges use it.';

grant execute on function app_private.uuid_v7_floor to holdfast_system;
--! EndIncluded app_private/uuid_v7_floor.sql
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
    hint    = 'Call app.enter(tenant_id, ticket) first, with a fresh ticket for that tenant.';
end
$$;

comment on function app_private.refuse is
  'Raises RL101 rls_enforcement_failed. The reason never holds a tenant id or a part of a ticket.';
--! EndIncluded app_private/refuse.sql
--! Included app_private/ticket_keys.sql
create table if not exists app_private.ticket_keys (
  kid       integer     not null,
  ipad      bytea       not null,
  opad      bytea       not null,
  not_after timestamptz,

  constraint ticket_keys_pkey primary key (kid),
  constraint ticket_keys_kid_positive check (kid between 1 and 999999999),
  constraint ticket_keys_pads_are_blocks check (length(ipad) = 64 and length(opad) = 64)
);

comment on table app_private.ticket_keys is
  'Keys that verify tickets, already padded for HMAC-SHA256 (RFC 2104). No role of the shell can read them.';
comment on column app_private.ticket_keys.kid is 'The number that a ticket names.';
comment on column app_private.ticket_keys.ipad is 'Key xor 0x36, padded to 64 bytes.';
comment on column app_private.ticket_keys.opad is 'Key xor 0x5c, padded to 64 bytes.';
comment on column app_private.ticket_keys.not_after is
  'When tickets of this key stop being accepted; null while it is in use.';
--! EndIncluded app_private/ticket_keys.sql
--! Included app_private/seal_secret.sql
create table if not exists app_private.seal_secret (
  one    boolean not null default true,
  secret bytea   not null,

  constraint seal_secret_pkey primary key (one),
  constraint seal_secret_one_row check (one)
);

comment on table app_private.seal_secret is
  'What makes a seal: 32 random bytes that never leave this database. Made once, when the database is.';
comment on column app_private.seal_secret.one is 'Always true: there is one row.';
comment on column app_private.seal_secret.secret is 'The secret; known to no client.';

insert into app_private.seal_secret (secret)
values (sha256(convert_to(
  gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text,
  'UTF8')))
on conflict on constraint seal_secret_pkey do nothing;
--! EndIncluded app_private/seal_secret.sql
--! Included app_private/ticket_tenant.sql
create or replace function app_private.ticket_tenant(ticket text) returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
  v_part text[] := pg_catalog.string_to_array(ticket, '.');
  v_mac  bytea;
begin
  if ticket is null
    or ticket !~
      '^v1\.[0-9]{1,9}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[0-9]{1,9}\.[0-9]{1,12}\.[0-9a-f]{64}$'
  then
    perform app_private.refuse('the ticket is missing or malformed');
  end if;

  select pg_catalog.sha256(k.opad || pg_catalog.sha256(
           k.ipad || pg_catalog.convert_to(pg_catalog.left(ticket, -65), 'UTF8')))
  into v_mac
  from app_private.ticket_keys as k
  where k.kid = v_part[2]::integer
    and (k.not_after is null or k.not_after > pg_catalog.now());

  if v_mac is null
    or pg_catalog.encode(v_mac, 'hex') <> v_part[6]
    or v_part[4] not in ('0', pg_catalog.pg_backend_pid()::text)
  then
    perform app_private.refuse('the ticket is not valid');
  end if;
  -- Told apart, so that a clock that is wrong does not look like a forgery. A forger never gets this far.
  if pg_catalog.to_timestamp(v_part[5]::bigint) < pg_catalog.clock_timestamp() then
    perform app_private.refuse('the ticket has expired: is the clock of the caller right?');
  end if;

  return v_part[3]::uuid;
end
$$;

comment on function app_private.ticket_tenant is
  'The tenant that a ticket v1.<kid>.<tenant>.<pid or 0>.<unix expiry>.<hmac-sha256> opens. Raises RL101.';
--! EndIncluded app_private/ticket_tenant.sql
--! Included app_private/seal.sql
create or replace function app_private.seal(tenant text) returns text
language sql
stable
parallel restricted
set search_path = ''
as $$
  select pg_catalog.encode(pg_catalog.sha256(s.secret || pg_catalog.convert_to(
           tenant || '|' || pg_catalog.pg_backend_pid() || '|'
           || extract(epoch from pg_catalog.transaction_timestamp()), 'UTF8') || s.secret), 'hex')
  from app_private.seal_secret as s
$$;

comment on function app_private.seal is
  'What only this server can compute, for this tenant, backend and transaction: hex of 32 bytes.';
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
begin
  if v_setting is null
    or pg_catalog.length(v_setting) <> 101
    or pg_catalog.right(v_setting, 64) <> app_private.seal(pg_catalog.left(v_setting, 36))
  then
    perform app_private.refuse('no tenant was entered in this transaction');
  end if;
  return pg_catalog.left(v_setting, 36)::uuid;
end
$$;

comment on function app_private.current_tenant_id is
  'The tenant of this transaction. Raises RL101 when none was entered. '
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
  perform app_private.current_tenant_id();
  return true;
end
$$;

comment on function app_private.require is
  'True, or raises RL101 when no tenant was entered in this transaction. The first half of every policy.';

grant execute on function app_private.require to holdfast_tenant, holdfast_owner, holdfast_system;
--! EndIncluded app_private/require.sql
--! Included app_private/isolate.sql
create or replace procedure app_private.isolate(target regclass, for_system boolean default false)
language plpgsql
set search_path = ''
as $$
declare
  v_own      constant text := '(app_private.require() AND (tenant_id = '
    '( SELECT app_private.current_tenant_id() AS current_tenant_id)))';
  v_expected constant text[] :=
    case when for_system then array['system_all to holdfast_system: true'] else '{}' end
    || ('tenant_isolation to holdfast_owner,holdfast_tenant: ' || v_own || ' check ' || v_own);
  v_present  text[];
  v_policy   name;
begin
  select pg_catalog.array_agg(pg_catalog.format('%s to %s: %s%s%s', p.polname,
           (select pg_catalog.string_agg(r.rolname, ',' order by r.rolname)
            from pg_catalog.pg_roles as r where r.oid = any (p.polroles)),
           pg_catalog.pg_get_expr(p.polqual, p.polrelid),
           ' check ' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid),
           case when p.polcmd <> '*' or not p.polpermissive then ' for less' end) order by p.polname)
  into v_present
  from pg_catalog.pg_class as c
  join pg_catalog.pg_policy as p on p.polrelid = c.oid
  where c.oid = target and c.relrowsecurity and c.relforcerowsecurity;

  -- Equal already: a re-run must not lock a hot table.
  if v_present is not distinct from v_expected then
    return;
  end if;

  execute pg_catalog.format('alter table %s enable row level security, force row level security', target);
  -- Policies are OR-ed: one that is not ours would open the table.
  for v_policy in select p.polname from pg_catalog.pg_policy as p where p.polrelid = target loop
    execute pg_catalog.format('drop policy %I on %s', v_policy, target);
  end loop;
  execute pg_catalog.format(
    'create policy tenant_isolation on %s to holdfast_owner, holdfast_tenant using %s with check %s',
    target, v_own, v_own);
  if for_system then
    execute pg_catalog.format('create policy system_all on %s to holdfast_system using (true)', target);
  end if;
end
$$;

comment on procedure app_private.isolate is
  'Puts tenant isolation on a table with a column tenant_id: row security, forced, for the owner and the tenant '
  'role; with for_system also the policy for functions that see all tenants. Does nothing when it is in place.';

grant execute on procedure app_private.isolate to holdfast_system;
--! EndIncluded app_private/isolate.sql
--! Included app_private/force_off.sql
create or replace procedure app_private.force_off(variadic targets regclass[])
language plpgsql
set search_path = ''
as $$
declare
  v_target regclass;
begin
  foreach v_target in array targets loop
    execute pg_catalog.format('alter table %s no force row level security', v_target);
  end loop;
end
$$;

comment on procedure app_private.force_off is
  'Lets the owner see all rows of the tables, for a data step of a migration. force_on must follow in the same file.';
--! EndIncluded app_private/force_off.sql
--! Included app_private/force_on.sql
create or replace procedure app_private.force_on(variadic targets regclass[])
language plpgsql
set search_path = ''
as $$
declare
  v_target regclass;
begin
  foreach v_target in array targets loop
    execute pg_catalog.format('alter table %s force row level security', v_target);
  end loop;
end
$$;

comment on procedure app_private.force_on is 'Ends what force_off began: row security binds the owner again.';
--! EndIncluded app_private/force_on.sql
--! Included app_private/partition_add.sql
create or replace procedure app_private.partition_add(parent regclass, month_start timestamptz)
language plpgsql
set search_path = ''
set timezone = 'UTC'
as $$
declare
  v_schema constant text := (select n.nspname from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace where c.oid = parent);
  v_name   constant text := (select c.relname from pg_catalog.pg_class as c where c.oid = parent)
    || pg_catalog.to_char(month_start, '"_y"YYYY"m"MM');
  v_system constant boolean := exists (
    select from pg_catalog.pg_policy as p where p.polrelid = parent and p.polname = 'system_all');
begin
  if pg_catalog.to_regclass(pg_catalog.format('%I.%I', v_schema, v_name)) is not null then
    return;
  end if;
  -- Creating a partition takes this lock anyway. Taken first, another caller may have made it while we waited.
  execute pg_catalog.format('lock table %s in access exclusive mode', parent);
  if pg_catalog.to_regclass(pg_catalog.format('%I.%I', v_schema, v_name)) is not null then
    return;
  end if;
  execute pg_catalog.format('create table %I.%I partition of %s for values from (%L) to (%L)',
    v_schema, v_name, parent,
    app_private.uuid_v7_floor(month_start),
    app_private.uuid_v7_floor(month_start + interval '1 month'));
  -- A partition does not inherit row security from its parent.
  call app_private.isolate(pg_catalog.format('%I.%I', v_schema, v_name)::regclass, v_system);
end
$$;

comment on procedure app_private.partition_add is
  'Adds the partition of one month (UTC) to a table that is partitioned by a UUIDv7, isolated from its first moment.';
--! EndIncluded app_private/partition_add.sql
--! Included app_private/partitions_make.sql
create or replace function app_private.partitions_make(months_ahead integer default 3) returns integer
language plpgsql
security definer  -- the owner alone may add partitions
set search_path = ''
set timezone = 'UTC'
set lock_timeout = '3s'
as $$
declare
  v_missing record;
  v_made    integer := 0;
begin
  for v_missing in
    select c.oid::regclass as parent, m.month_start
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname = 'app'
    cross join pg_catalog.generate_series(
      pg_catalog.date_trunc('month', pg_catalog.now()) - interval '1 month',
      pg_catalog.date_trunc('month', pg_catalog.now()) + pg_catalog.make_interval(months => months_ahead),
      interval '1 month') as m (month_start)
    where c.relkind = 'p'
      and pg_catalog.to_regclass(pg_catalog.format('app.%I',
            c.relname || pg_catalog.to_char(m.month_start, '"_y"YYYY"m"MM'))) is null
    order by c.relname, m.month_start
  loop
    call app_private.partition_add(v_missing.parent, v_missing.month_start);
    v_made := v_made + 1;
  end loop;
  return v_made;
end
$$;

comment on function app_private.partitions_make is
  'Adds the missing monthly partitions, from last month to months_ahead; answers how many. Made months ahead, so that '
  'a lock it could not get within 3 s may be tried again an hour later.';

grant execute on function app_private.partitions_make to holdfast_system;
--! EndIncluded app_private/partitions_make.sql
--! Included app/error_codes.sql
create or replace view app.error_codes as
select e.sqlstate, e.name, e.http_status, e.meaning
from (values
  ('RL101', 'rls_enforcement_failed', 500,
   'No tenant was entered, or the ticket does not open it. Nothing was read or changed.'),
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
--! Included app/migration_applied.sql
create or replace function app.migration_applied(file_name text) returns boolean
language plpgsql
stable
security definer  -- the list of migrations is readable by the owner alone
set search_path = ''
as $$
begin
  if pg_catalog.to_regclass('graphile_migrate.migrations') is null then
    return false;
  end if;
  return exists (select from graphile_migrate.migrations as m where m.filename = file_name);
end
$$;

comment on function app.migration_applied is
  'Whether a committed migration, named by its number as in 000001.sql, has been run here. Knows no tenant.';

grant execute on function app.migration_applied to holdfast_service, holdfast_worker;
--! EndIncluded app/migration_applied.sql

-- Tenants.
--! Included app/tiers.sql
create table if not exists app.tiers (
  tier        text     not null,
  every       interval not null,
  rank        smallint not null,
  description text     not null,

  constraint tiers_pkey primary key (tier),
  constraint tiers_every_positive check (every >= interval '1 minute'),
  constraint tiers_rank_once unique (rank)
);

comment on table app.tiers is
  'The cohorts of the scheduler, and how often a tenant of each is analysed. An operator may change the rows.';
comment on column app.tiers.tier is 'The name of the cohort.';
comment on column app.tiers.every is 'The time between two analyses of one tenant.';
comment on column app.tiers.rank is 'Which tier goes first when many are due; 1 is first.';
comment on column app.tiers.description is 'Who belongs here.';

insert into app.tiers (tier, every, rank, description)
values
  ('HIGH_VALUE', interval '1 hour',  1, 'Enterprise and pro plans.'),
  ('ACTIVE',     interval '3 hours', 2, 'Tenants that use the product.'),
  ('DORMANT',    interval '6 hours', 3, 'No activity for a week.')
on conflict on constraint tiers_pkey do nothing;

grant select on app.tiers to holdfast_system, holdfast_tenant;
--! EndIncluded app/tiers.sql
--! Included app/tenants.sql
create table if not exists app.tenants (
  tenant_id  uuid        not null default app_private.uuid_v7(),
  name       text        not null,
  tier       text        not null default 'ACTIVE',
  time_zone  text        not null default 'UTC',
  status     text        not null default 'ACTIVE',
  version    bigint      not null default 1,
  shard      smallint    not null
    generated always as (('x' || left(md5(tenant_id::text), 4))::bit(16)::integer % 16) stored,
  required_tags text[] not null default '{environment,owner,cost_center}',
  sample     boolean     not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),

  constraint tenants_pkey primary key (tenant_id),
  constraint tenants_name_once unique (name),
  constraint tenants_name_length check (length(name) between 1 and 100 and name = btrim(name)),
  constraint tenants_name_printable check (name !~ '[[:cntrl:]]'),
  constraint tenants_tier_fkey foreign key (tier) references app.tiers (tier) on delete restrict,
  constraint tenants_status_known check (status in ('ACTIVE', 'SUSPENDED')),
  constraint tenants_version_positive check (version >= 1),
  constraint tenants_required_tags_bounded check (
    cardinality(required_tags) <= 20 and array_position(required_tags, null) is null)
);

create index if not exists tenants_tier_shard_idx on app.tenants (tier, shard);

comment on table app.tenants is
  'Who pays, and in which tier. The one table whose names are unique across tenants: people pick it by name.';
comment on column app.tenants.tenant_id is 'The tenant; every other table leads with it.';
comment on column app.tenants.name is 'What people call the tenant; unique.';
comment on column app.tenants.tier is 'The cohort of the scheduler; see app.tiers.';
comment on column app.tenants.time_zone is 'IANA zone in which days and months of the budget begin.';
comment on column app.tenants.status is 'ACTIVE, or SUSPENDED: nothing can be entered or scheduled.';
comment on column app.tenants.version is 'Rises by one with each change by a person.';
comment on column app.tenants.shard is
  '0 to 15, from the id: which row of app.schedules makes the runs of this tenant.';
comment on column app.tenants.required_tags is
  'Tags that every line of usage should have; detector untagged_spend reads it.';
comment on column app.tenants.sample is 'Made by the first start, with generated cost data.';
comment on column app.tenants.created_at is 'When the tenant was made.';
comment on column app.tenants.updated_at is 'When a person last changed it.';

call app_private.isolate('app.tenants', for_system => true);
grant select on app.tenants to holdfast_tenant;
grant select, insert, update on app.tenants to holdfast_system;
--! EndIncluded app/tenants.sql
--! Included app/enter.sql
create or replace function app.enter(tenant_id uuid, ticket text) returns void
language plpgsql
security definer  -- the keys that verify a ticket are readable by the owner alone
set search_path = ''
as $$
declare
  v_before text := coalesce(pg_catalog.current_setting('app.tenant', true), '');
begin
  if app_private.ticket_tenant(ticket) is distinct from enter.tenant_id then
    perform app_private.refuse('the ticket is for another tenant');
  end if;
  -- A value without its seal is nobody's tenant: left by a session, it must not shut the connection to all others.
  if pg_catalog.left(v_before, 36) <> enter.tenant_id::text
    and pg_catalog.right(v_before, 64) = app_private.seal(pg_catalog.left(v_before, 36))
  then
    perform app_private.refuse('one transaction, one tenant');
  end if;

  perform
    pg_catalog.set_config('app.tenant',
      enter.tenant_id::text || '.' || app_private.seal(enter.tenant_id::text), true),
    pg_catalog.set_config('row_security', 'on', true);

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

grant execute on function app.enter to holdfast_service, holdfast_worker, holdfast_tenant;
--! EndIncluded app/enter.sql
--! Included app/ticket_check.sql
create or replace function app.ticket_check(ticket text) returns boolean
language plpgsql
stable
security definer  -- the keys that verify a ticket are readable by the owner alone
set search_path = ''
as $$
begin
  perform app_private.ticket_tenant(ticket);
  return true;
exception
  when sqlstate 'RL101' then
    return false;
end
$$;

comment on function app.ticket_check is
  'Whether a ticket would be let in now, without entering its tenant and without saying why not: a program finds out '
  'whether its key and its clock are right.';

grant execute on function app.ticket_check to holdfast_service, holdfast_worker;
--! EndIncluded app/ticket_check.sql
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

grant execute on function app.tenant_find to holdfast_ops, holdfast_worker;

set local role holdfast_owner;
--! EndIncluded app/tenant_find.sql
--! Included app/events.sql
create table if not exists app.events (
  tenant_id  uuid        not null,
  id         uuid        not null default app_private.uuid_v7(),
  type       text        not null,
  subject_id uuid,
  data       jsonb       not null default '{}',
  created_at timestamptz not null default now(),

  constraint events_pkey primary key (tenant_id, id),
  constraint events_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint events_type_dotted check (type ~ '^[a-z_]+(\.[a-z_]+)+$')
) partition by range (id);

comment on table app.events is
  'The one outbox: what happened, written in the transaction in which it happened. Append only.';
comment on column app.events.tenant_id is 'Whose event it is.';
comment on column app.events.id is 'UUIDv7: also the order of events.';
comment on column app.events.type is 'Dotted, past tense: import.published, run.failed, budget.refused.';
comment on column app.events.subject_id is 'The row that it is about.';
comment on column app.events.data is 'Facts; never a secret, a prompt or a ticket.';
comment on column app.events.created_at is 'When the transaction began.';

call app_private.isolate('app.events', for_system => true);
grant select on app.events to holdfast_tenant;
grant select, insert on app.events to holdfast_system;
--! EndIncluded app/events.sql
--! Included app_private/event_add.sql
create or replace function app_private.event_add(
  tenant_id uuid, type text, subject_id uuid, data jsonb default '{}')
returns void
language sql
set search_path = ''
as $$
  insert into app.events (tenant_id, type, subject_id, data) values ($1, $2, $3, $4)
$$;

comment on function app_private.event_add is 'Appends to the outbox, in the transaction of what happened.';

grant execute on function app_private.event_add to holdfast_system;
--! EndIncluded app_private/event_add.sql

-- Cost data: imports, lines, the daily roll-up.
--! Included app/cost_imports.sql
create table if not exists app.cost_imports (
  tenant_id     uuid        not null,
  id            uuid        not null default app_private.uuid_v7(),
  source        text        not null,
  file_name     text        not null,
  focus_version text        not null,
  status        text        not null default 'LOADING',
  line_count    bigint      not null default 0,
  flagged_count bigint      not null default 0,
  flags         jsonb       not null default '{}',
  error         jsonb,
  started_at    timestamptz not null default now(),
  finished_at   timestamptz,
  swept_at      timestamptz,

  constraint cost_imports_pkey primary key (tenant_id, id),
  constraint cost_imports_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint cost_imports_status_known
    check (status in ('LOADING', 'LOADED', 'PUBLISHED', 'SUPERSEDED', 'FAILED')),
  constraint cost_imports_finished_at_iff_ended
    check ((status in ('LOADING', 'LOADED')) = (finished_at is null)),
  constraint cost_imports_error_iff_failed check ((status = 'FAILED') = (error is not null)),
  constraint cost_imports_counts_not_negative check (line_count >= 0 and flagged_count >= 0),
  constraint cost_imports_texts_bounded
    check (length(source) between 1 and 100 and length(file_name) between 1 and 255)
);

create index if not exists cost_imports_status_started_at_idx
  on app.cost_imports (status, started_at) where swept_at is null;

comment on table app.cost_imports is
  'Each cost file that was read: whole and published, or refused. Its lines are seen only while a period points to it.';
comment on column app.cost_imports.tenant_id is 'Whose costs they are.';
comment on column app.cost_imports.id is 'The import.';
comment on column app.cost_imports.source is
  'Where the file came from; a file replaces the billing periods of its own source only.';
comment on column app.cost_imports.file_name is 'The name of the file, without its folder.';
comment on column app.cost_imports.focus_version is 'The FOCUS version whose columns the file has.';
comment on column app.cost_imports.status is
  'LOADING, LOADED (rolled up), PUBLISHED, SUPERSEDED (no period points to it) or FAILED.';
comment on column app.cost_imports.line_count is 'Lines that were read.';
comment on column app.cost_imports.flagged_count is 'Lines with at least one data-quality flag.';
comment on column app.cost_imports.flags is 'How many lines have each flag.';
comment on column app.cost_imports.error is 'Why it failed: file, line, column.';
comment on column app.cost_imports.started_at is 'When reading began.';
comment on column app.cost_imports.finished_at is 'When it was published or failed.';
comment on column app.cost_imports.swept_at is 'When the lines of an import that nobody sees were removed.';

call app_private.isolate('app.cost_imports', for_system => true);
grant select on app.cost_imports to holdfast_tenant;
grant select, update on app.cost_imports to holdfast_system;
--! EndIncluded app/cost_imports.sql
--! Included app/cost_line_cells.sql
-- One line of a cost file as the shell sends it: a row literal of this type. The order of the fields is the contract.
do $$
begin
  if pg_catalog.to_regtype('app.cost_line_cells') is null then
    create type app.cost_line_cells as (
    line_no                                integer,
    billing_period_start                   timestamptz,
    billing_period_end                     timestamptz,
    charge_period_start                    timestamptz,
    charge_period_end                      timestamptz,
    provider_name                          text,
    publisher_name                         text,
    invoice_issuer_name                    text,
    invoice_id                             text,
    billing_account_id                     text,
    billing_account_name                   text,
    billing_account_type                   text,
    sub_account_id                         text,
    sub_account_name                       text,
    sub_account_type                       text,
    charge_category                        text,
    charge_class                           text,
    charge_frequency                       text,
    charge_description                     text,
    billed_cost                            numeric,
    effective_cost                         numeric,
    list_cost                              numeric,
    contracted_cost                        numeric,
    list_unit_price                        numeric,
    contracted_unit_price                  numeric,
    billing_currency                       text,
    pricing_currency                       text,
    pricing_currency_effective_cost        numeric,
    pricing_currency_list_unit_price       numeric,
    pricing_currency_contracted_unit_price numeric,
    pricing_category                       text,
    pricing_quantity                       numeric,
    pricing_unit                           text,
    consumed_quantity                      numeric,
    consumed_unit                          text,
    service_category                       text,
    service_subcategory                    text,
    service_name                           text,
    resource_id                            text,
    resource_name                          text,
    resource_type                          text,
    region_id                              text,
    region_name                            text,
    availability_zone                      text,
    sku_id                                 text,
    sku_price_id                           text,
    sku_meter                              text,
    sku_price_details                      jsonb,
    tags                                   jsonb,
    commitment_discount_id                 text,
    commitment_discount_name               text,
    commitment_discount_category           text,
    commitment_discount_type               text,
    commitment_discount_status             text,
    commitment_discount_quantity           numeric,
    commitment_discount_unit               text,
    capacity_reservation_id                text,
    capacity_reservation_status            text,
    extra                                  jsonb,
    reader_flags                           text[]
    );
  end if;
end
$$;

comment on type app.cost_line_cells is
  'A line of a FOCUS file for app.cost_import_add, as a row literal. New fields go last, here and in app.cost_lines.';

grant usage on type app.cost_line_cells to holdfast_worker, holdfast_service;
--! EndIncluded app/cost_line_cells.sql
--! Included app/cost_lines.sql
-- The columns after import_id are those of app.cost_line_cells, in its order; a test compares them.
create table if not exists app.cost_lines (
  tenant_id                              uuid        not null,
  import_id                              uuid        not null,
  line_no                                integer     not null,
  billing_period_start                   timestamptz not null,
  billing_period_end                     timestamptz not null,
  charge_period_start                    timestamptz not null,
  charge_period_end                      timestamptz not null,
  provider_name                          text,
  publisher_name                         text,
  invoice_issuer_name                    text,
  invoice_id                             text,
  billing_account_id                     text,
  billing_account_name                   text,
  billing_account_type                   text,
  sub_account_id                         text,
  sub_account_name                       text,
  sub_account_type                       text,
  charge_category                        text        not null,
  charge_class                           text,
  charge_frequency                       text,
  charge_description                     text,
  billed_cost                            numeric     not null,
  effective_cost                         numeric     not null,
  list_cost                              numeric,
  contracted_cost                        numeric,
  list_unit_price                        numeric,
  contracted_unit_price                  numeric,
  billing_currency                       text        not null,
  pricing_currency                       text,
  pricing_currency_effective_cost        numeric,
  pricing_currency_list_unit_price       numeric,
  pricing_currency_contracted_unit_price numeric,
  pricing_category                       text,
  pricing_quantity                       numeric,
  pricing_unit                           text,
  consumed_quantity                      numeric,
  consumed_unit                          text,
  service_category                       text,
  service_subcategory                    text,
  service_name                           text,
  resource_id                            text,
  resource_name                          text,
  resource_type                          text,
  region_id                              text,
  region_name                            text,
  availability_zone                      text,
  sku_id                                 text,
  sku_price_id                           text,
  sku_meter                              text,
  sku_price_details                      jsonb,
  tags                                   jsonb,
  commitment_discount_id                 text,
  commitment_discount_name               text,
  commitment_discount_category           text,
  commitment_discount_type               text,
  commitment_discount_status             text,
  commitment_discount_quantity           numeric,
  commitment_discount_unit               text,
  capacity_reservation_id                text,
  capacity_reservation_status            text,
  extra                                  jsonb,
  reader_flags                           text[],
  dq_flags                               text[]      not null default '{}',

  constraint cost_lines_pkey primary key (tenant_id, import_id, line_no),
  constraint cost_lines_import_fkey foreign key (tenant_id, import_id)
    references app.cost_imports (tenant_id, id) on delete restrict,
  constraint cost_lines_charge_category_known
    check (charge_category in ('Usage', 'Purchase', 'Tax', 'Credit', 'Adjustment')),
  -- It reaches headlines and the model.
  constraint cost_lines_billing_currency_code check (billing_currency ~ '^[A-Z]{3}$'),
  constraint cost_lines_billing_period_not_empty check (billing_period_end > billing_period_start),
  constraint cost_lines_charge_period_not_empty check (charge_period_end > charge_period_start),
  constraint cost_lines_billed_cost_finite check (billed_cost > '-Infinity' and billed_cost < 'Infinity'),
  constraint cost_lines_effective_cost_finite
    check (effective_cost > '-Infinity' and effective_cost < 'Infinity'),
  constraint cost_lines_list_cost_finite check (list_cost > '-Infinity' and list_cost < 'Infinity'),
  constraint cost_lines_contracted_cost_finite
    check (contracted_cost > '-Infinity' and contracted_cost < 'Infinity')
);

create index if not exists cost_lines_charge_period_start_idx
  on app.cost_lines (tenant_id, import_id, charge_period_start);

comment on table app.cost_lines is
  'Lines of cost files, as FOCUS 1.2 names them. Seen through app.cost_lines_current; '
  'removed when nothing points to them.';
comment on column app.cost_lines.tenant_id is 'Whose cost it is.';
comment on column app.cost_lines.import_id is 'The file that it came with.';
comment on column app.cost_lines.line_no is 'The line of the file, counted from 1 with the header.';
comment on column app.cost_lines.billing_period_start is 'FOCUS BillingPeriodStart.';
comment on column app.cost_lines.billing_period_end is 'FOCUS BillingPeriodEnd, exclusive.';
comment on column app.cost_lines.charge_period_start is 'FOCUS ChargePeriodStart.';
comment on column app.cost_lines.charge_period_end is 'FOCUS ChargePeriodEnd, exclusive.';
comment on column app.cost_lines.provider_name is 'FOCUS ProviderName.';
comment on column app.cost_lines.publisher_name is 'FOCUS PublisherName.';
comment on column app.cost_lines.invoice_issuer_name is 'FOCUS InvoiceIssuerName.';
comment on column app.cost_lines.invoice_id is 'FOCUS InvoiceId (1.2).';
comment on column app.cost_lines.billing_account_id is 'FOCUS BillingAccountId.';
comment on column app.cost_lines.billing_account_name is 'FOCUS BillingAccountName.';
comment on column app.cost_lines.billing_account_type is 'FOCUS BillingAccountType (1.2).';
comment on column app.cost_lines.sub_account_id is 'FOCUS SubAccountId.';
comment on column app.cost_lines.sub_account_name is 'FOCUS SubAccountName.';
comment on column app.cost_lines.sub_account_type is 'FOCUS SubAccountType (1.2).';
comment on column app.cost_lines.charge_category is 'FOCUS ChargeCategory: Usage, Purchase, Tax, Credit or Adjustment.';
comment on column app.cost_lines.charge_class is 'FOCUS ChargeClass: Correction, or null.';
comment on column app.cost_lines.charge_frequency is 'FOCUS ChargeFrequency: One-Time, Recurring or Usage-Based.';
comment on column app.cost_lines.charge_description is 'FOCUS ChargeDescription.';
comment on column app.cost_lines.billed_cost is 'FOCUS BilledCost, in billing_currency.';
comment on column app.cost_lines.effective_cost is 'FOCUS EffectiveCost, in billing_currency: what the detectors sum.';
comment on column app.cost_lines.list_cost is
  'FOCUS ListCost, in billing_currency; null in exports that leave it out, and flagged.';
comment on column app.cost_lines.contracted_cost is
  'FOCUS ContractedCost, in billing_currency; null in exports that leave it out, and flagged.';
comment on column app.cost_lines.list_unit_price is 'FOCUS ListUnitPrice.';
comment on column app.cost_lines.contracted_unit_price is 'FOCUS ContractedUnitPrice.';
comment on column app.cost_lines.billing_currency is 'FOCUS BillingCurrency; never summed with another.';
comment on column app.cost_lines.pricing_currency is 'FOCUS PricingCurrency (1.2).';
comment on column app.cost_lines.pricing_currency_effective_cost is 'FOCUS PricingCurrencyEffectiveCost (1.2).';
comment on column app.cost_lines.pricing_currency_list_unit_price is 'FOCUS PricingCurrencyListUnitPrice (1.2).';
comment on column app.cost_lines.pricing_currency_contracted_unit_price is
  'FOCUS PricingCurrencyContractedUnitPrice (1.2).';
comment on column app.cost_lines.pricing_category is 'FOCUS PricingCategory.';
comment on column app.cost_lines.pricing_quantity is 'FOCUS PricingQuantity, in pricing_unit.';
comment on column app.cost_lines.pricing_unit is 'FOCUS PricingUnit.';
comment on column app.cost_lines.consumed_quantity is 'FOCUS ConsumedQuantity, in consumed_unit.';
comment on column app.cost_lines.consumed_unit is 'FOCUS ConsumedUnit.';
comment on column app.cost_lines.service_category is 'FOCUS ServiceCategory.';
comment on column app.cost_lines.service_subcategory is 'FOCUS ServiceSubcategory (1.1).';
comment on column app.cost_lines.service_name is 'FOCUS ServiceName.';
comment on column app.cost_lines.resource_id is 'FOCUS ResourceId.';
comment on column app.cost_lines.resource_name is 'FOCUS ResourceName.';
comment on column app.cost_lines.resource_type is 'FOCUS ResourceType.';
comment on column app.cost_lines.region_id is 'FOCUS RegionId.';
comment on column app.cost_lines.region_name is 'FOCUS RegionName.';
comment on column app.cost_lines.availability_zone is 'FOCUS AvailabilityZone; some exports put a price here.';
comment on column app.cost_lines.sku_id is 'FOCUS SkuId.';
comment on column app.cost_lines.sku_price_id is 'FOCUS SkuPriceId.';
comment on column app.cost_lines.sku_meter is 'FOCUS SkuMeter (1.1).';
comment on column app.cost_lines.sku_price_details is 'FOCUS SkuPriceDetails (1.1).';
comment on column app.cost_lines.tags is 'FOCUS Tags, keys trimmed; null when the cell was not a JSON object.';
comment on column app.cost_lines.commitment_discount_id is 'FOCUS CommitmentDiscountId.';
comment on column app.cost_lines.commitment_discount_name is 'FOCUS CommitmentDiscountName.';
comment on column app.cost_lines.commitment_discount_category is 'FOCUS CommitmentDiscountCategory.';
comment on column app.cost_lines.commitment_discount_type is 'FOCUS CommitmentDiscountType.';
comment on column app.cost_lines.commitment_discount_status is 'FOCUS CommitmentDiscountStatus: Used or Unused.';
comment on column app.cost_lines.commitment_discount_quantity is 'FOCUS CommitmentDiscountQuantity (1.1).';
comment on column app.cost_lines.commitment_discount_unit is 'FOCUS CommitmentDiscountUnit (1.1).';
comment on column app.cost_lines.capacity_reservation_id is 'FOCUS CapacityReservationId (1.1).';
comment on column app.cost_lines.capacity_reservation_status is 'FOCUS CapacityReservationStatus (1.1).';
comment on column app.cost_lines.extra is 'Columns of the file that FOCUS does not have.';
comment on column app.cost_lines.reader_flags is 'Data-quality flags that only the reader of the file could see.';
comment on column app.cost_lines.dq_flags is
  'What is doubtful about the line: reader_flags and those of app_private.cost_line_flags.';

call app_private.isolate('app.cost_lines', for_system => true);
grant select on app.cost_lines to holdfast_tenant;
grant select, delete on app.cost_lines to holdfast_system;
--! EndIncluded app/cost_lines.sql
--! Included app/cost_daily.sql
create table if not exists app.cost_daily (
  tenant_id            uuid        not null,
  import_id            uuid        not null,
  row_no               integer     not null,
  billing_period_start timestamptz not null,
  day                  date        not null,
  provider_name        text,
  sub_account_id       text,
  sub_account_name     text,
  service_category     text,
  service_name         text,
  region_id            text,
  charge_category      text        not null,
  correction           boolean     not null,
  billing_currency     text        not null,
  billed_cost          numeric     not null,
  effective_cost       numeric     not null,
  list_cost            numeric     not null,
  contracted_cost      numeric     not null,
  line_count           integer     not null,
  flagged_count        integer     not null,
  doubtful_count       integer     not null,

  constraint cost_daily_pkey primary key (tenant_id, import_id, row_no),
  constraint cost_daily_import_fkey foreign key (tenant_id, import_id)
    references app.cost_imports (tenant_id, id) on delete restrict
);

create index if not exists cost_daily_day_idx on app.cost_daily (tenant_id, import_id, day);

comment on table app.cost_daily is
  'The lines of an import summed by day and dimension; detectors read it. A charge counts on the UTC day it began.';
comment on column app.cost_daily.tenant_id is 'Whose cost it is.';
comment on column app.cost_daily.import_id is 'The file that it came with.';
comment on column app.cost_daily.row_no is 'Counts the rows of one import.';
comment on column app.cost_daily.billing_period_start is 'The billing period of the lines.';
comment on column app.cost_daily.day is 'UTC day in which the charge period began.';
comment on column app.cost_daily.provider_name is 'FOCUS ProviderName.';
comment on column app.cost_daily.sub_account_id is 'FOCUS SubAccountId.';
comment on column app.cost_daily.sub_account_name is 'FOCUS SubAccountName, the last one seen.';
comment on column app.cost_daily.service_category is 'FOCUS ServiceCategory.';
comment on column app.cost_daily.service_name is 'FOCUS ServiceName.';
comment on column app.cost_daily.region_id is 'FOCUS RegionId.';
comment on column app.cost_daily.charge_category is 'FOCUS ChargeCategory.';
comment on column app.cost_daily.correction is 'Whether FOCUS ChargeClass was Correction.';
comment on column app.cost_daily.billing_currency is 'FOCUS BillingCurrency; never summed with another.';
comment on column app.cost_daily.billed_cost is 'Sum of BilledCost.';
comment on column app.cost_daily.effective_cost is 'Sum of EffectiveCost.';
comment on column app.cost_daily.list_cost is 'Sum of ListCost.';
comment on column app.cost_daily.contracted_cost is 'Sum of ContractedCost.';
comment on column app.cost_daily.line_count is 'How many lines were summed.';
comment on column app.cost_daily.flagged_count is 'How many of them have a data-quality flag.';
comment on column app.cost_daily.doubtful_count is
  'How many of them have a flag that touches EffectiveCost; see app_private.doubtful_flags.';

call app_private.isolate('app.cost_daily', for_system => true);
grant select on app.cost_daily to holdfast_tenant;
grant select, delete on app.cost_daily to holdfast_system;
--! EndIncluded app/cost_daily.sql
--! Included app/cost_periods.sql
create table if not exists app.cost_periods (
  tenant_id            uuid        not null,
  source               text        not null,
  billing_period_start timestamptz not null,
  import_id            uuid        not null,
  published_at         timestamptz not null default now(),

  constraint cost_periods_pkey primary key (tenant_id, source, billing_period_start),
  constraint cost_periods_import_fkey foreign key (tenant_id, import_id)
    references app.cost_imports (tenant_id, id) on delete restrict
);

create index if not exists cost_periods_import_id_idx on app.cost_periods (tenant_id, import_id);

comment on table app.cost_periods is
  'Which import is the truth for a billing period of a source. Publishing an import moves the pointer.';
comment on column app.cost_periods.tenant_id is 'Whose period it is.';
comment on column app.cost_periods.source is 'The source of the files.';
comment on column app.cost_periods.billing_period_start is 'FOCUS BillingPeriodStart.';
comment on column app.cost_periods.import_id is 'The import whose lines of this period are seen.';
comment on column app.cost_periods.published_at is 'When the pointer was last moved.';

call app_private.isolate('app.cost_periods', for_system => true);
grant select on app.cost_periods to holdfast_tenant;
grant select on app.cost_periods to holdfast_system;
--! EndIncluded app/cost_periods.sql
--! Included app/cost_lines_current.sql
create or replace view app.cost_lines_current with (security_invoker = true, security_barrier = true) as
select l.*
from app.cost_periods as p
join app.cost_lines as l
  on l.tenant_id = p.tenant_id
  and l.import_id = p.import_id
  and l.billing_period_start = p.billing_period_start;

comment on view app.cost_lines_current is 'The lines that count now: those of published periods.';

grant select on app.cost_lines_current to holdfast_tenant;
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

grant select on app.cost_daily_current to holdfast_tenant;
--! EndIncluded app/cost_daily_current.sql
--! Included app_private/cost_line_flags.sql
create or replace function app_private.cost_line_flags(line app.cost_line_cells) returns text[]
language sql
immutable
parallel safe
return coalesce((line).reader_flags, '{}') || array_remove(array[
  case when (line).provider_name is null then 'missing_provider' end,
  case when coalesce((line).contracted_cost, 0) = 0 and (line).effective_cost <> 0
    then 'missing_contracted_cost' end,
  case when coalesce((line).list_cost, 0) = 0 and (line).effective_cost <> 0 then 'missing_list_cost' end,
  case when (line).list_cost <> 0 and (line).list_cost < (line).contracted_cost then 'list_lt_contracted' end,
  case when (line).contracted_cost > 0 and (line).contracted_cost < (line).effective_cost
    then 'contracted_lt_effective' end,
  case when (line).charge_category = 'Usage' and (line).list_unit_price is null
    then 'missing_list_unit_price' end,
  case when (line).charge_category in ('Usage', 'Purchase') and (line).pricing_quantity is null
    then 'missing_pricing_quantity' end,
  case when (line).charge_category = 'Usage' and (line).consumed_quantity is null
    and (line).commitment_discount_status is distinct from 'Unused' then 'missing_consumed_quantity' end,
  case when (line).charge_category = 'Purchase' and (line).commitment_discount_id is not null
    and (line).effective_cost > 0 then 'invalid_effective_cost' end,
  case when (line).effective_cost = 0 and (line).billed_cost > 0 and (line).charge_category = 'Usage'
    then 'effective_zero_billed_positive' end,
  case when abs((line).list_cost - (line).list_unit_price * (line).pricing_quantity) > 0.01
    then 'list_ne_price_x_quantity' end,
  -- A correction lies outside its billing period on purpose.
  case when (line).charge_class is null and ((line).charge_period_start < (line).billing_period_start
    or (line).charge_period_start >= (line).billing_period_end) then 'bad_period' end
], null);

comment on function app_private.cost_line_flags is
  'The data-quality flags of one line: FOCUS says what each column must hold, and exports are wrong in known ways. '
  'Flags mark a line; they never change or drop it.';
--! EndIncluded app_private/cost_line_flags.sql
--! Included app_private/doubtful_flags.sql
create or replace function app_private.doubtful_flags() returns text[]
language sql
immutable
parallel safe
return array[
  'effective_zero_billed_positive', 'invalid_effective_cost', 'bad_period', 'duplicate_line',
  'mixed_currency'];

comment on function app_private.doubtful_flags is
  'The data-quality flags that touch EffectiveCost: what is summed from such lines has confidence low.';
--! EndIncluded app_private/doubtful_flags.sql
--! Included app_private/cost_import_open.sql
create or replace function app_private.cost_import_open(tenant_id uuid, import_id uuid, wanted_status text)
returns app.cost_imports
language plpgsql
set search_path = ''
as $$
declare
  v_import app.cost_imports;
begin
  select i.* into v_import
  from app.cost_imports as i
  where i.tenant_id = cost_import_open.tenant_id and i.id = import_id
  for no key update;

  if not found then
    raise exception using
      errcode = 'IM101',
      message = 'import_not_found',
      hint    = 'select * from ops.imports lists the imports of every tenant.';
  end if;
  if v_import.status <> wanted_status then
    raise exception using
      errcode = 'IM201',
      message = 'import_closed',
      detail  = pg_catalog.jsonb_build_object('status', v_import.status, 'wanted', wanted_status),
      hint    = 'An import is added to, rolled up and published once. Start another.';
  end if;
  return v_import;
end
$$;

comment on function app_private.cost_import_open is
  'The import, locked, when it is in the wanted status. Raises IM101 when there is none, IM201 when it is in another.';
--! EndIncluded app_private/cost_import_open.sql
--! Included app_private/cost_import_flag.sql
create or replace function app_private.cost_import_flag(tenant_id uuid, import_id uuid) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_duplicates integer[];
  v_accounts   text[];
begin
  -- Found first and marked then: as one statement the planner, which knows nothing of a new import, joins line by line.
  select array_agg(c.line_no) into v_duplicates
  from (
    select l.line_no, count(*) over (
      partition by l.provider_name, l.billing_account_id, l.service_name, l.charge_period_start,
        l.charge_period_end, l.sub_account_id, l.resource_id, l.sku_price_id, l.sku_id, l.charge_category,
        l.charge_class, l.charge_description, l.region_id, l.pricing_quantity, l.consumed_quantity,
        l.billed_cost, l.effective_cost, l.tags::text) as copies
    from app.cost_lines as l
    where l.tenant_id = cost_import_flag.tenant_id and l.import_id = cost_import_flag.import_id) as c
  where c.copies > 1;

  update app.cost_lines as l
  set dq_flags = array_append(l.dq_flags, 'duplicate_line')
  where l.tenant_id = cost_import_flag.tenant_id
    and l.import_id = cost_import_flag.import_id
    and l.line_no = any (v_duplicates);

  select array_agg(a.account) into v_accounts
  from (
    select coalesce(l.billing_account_id, '') as account
    from app.cost_lines as l
    where l.tenant_id = cost_import_flag.tenant_id and l.import_id = cost_import_flag.import_id
    group by coalesce(l.billing_account_id, '')
    having min(l.billing_currency) <> max(l.billing_currency)) as a;

  update app.cost_lines as l
  set dq_flags = array_append(l.dq_flags, 'mixed_currency')
  where l.tenant_id = cost_import_flag.tenant_id
    and l.import_id = cost_import_flag.import_id
    and coalesce(l.billing_account_id, '') = any (v_accounts);
end
$$;

comment on function app_private.cost_import_flag is
  'Adds the flags that only the whole file shows: duplicate_line, and mixed_currency within one billing account.';
--! EndIncluded app_private/cost_import_flag.sql
--! Included app_private/cost_import_counts.sql
create or replace function app_private.cost_import_counts(tenant_id uuid, import_id uuid)
returns table (line_count bigint, flagged_count bigint, flags jsonb)
language sql
stable
set search_path = ''
as $$
  with lines as (
    select l.dq_flags from app.cost_lines as l where l.tenant_id = $1 and l.import_id = $2
  ),
  by_flag as (
    select f.flag, count(*) as n
    from lines as l cross join lateral unnest(l.dq_flags) as f (flag)
    group by f.flag
  )
  select (select count(*) from lines),
         (select count(*) from lines as l where l.dq_flags <> '{}'),
         (select coalesce(jsonb_object_agg(b.flag, b.n), '{}') from by_flag as b)
$$;

comment on function app_private.cost_import_counts is 'Lines, flagged lines, and lines per flag of one import.';
--! EndIncluded app_private/cost_import_counts.sql
--! Included app/cost_import_start.sql
create or replace function app.cost_import_start(
  tenant_id uuid, ticket text, source text, file_name text, focus_version text) returns uuid
language plpgsql
security definer  -- the shell may not write imports
set search_path = ''
as $$
declare
  v_import_id uuid;
begin
  perform app.enter(tenant_id, ticket);
  if coalesce(pg_catalog.length(source), 0) not between 1 and 100
    or coalesce(pg_catalog.length(file_name), 0) = 0
    or coalesce(pg_catalog.length(focus_version), 0) not between 1 and 20
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('source', source, 'file_name', file_name,
                  'focus_version', focus_version),
      hint    = 'An import has a source of 1 to 100 characters, the name of its file and its FOCUS version.';
  end if;

  insert into app.cost_imports (tenant_id, source, file_name, focus_version)
  values (cost_import_start.tenant_id, cost_import_start.source,
          pg_catalog.right(cost_import_start.file_name, 255), cost_import_start.focus_version)
  returning id into v_import_id;

  return v_import_id;
end
$$;

comment on function app.cost_import_start is
  'Opens an import; add lines to it, roll it up, publish it. Nothing of it is seen before it is published. '
  'Raises OP102.';

grant execute on function app.cost_import_start to holdfast_service, holdfast_worker;
--! EndIncluded app/cost_import_start.sql
--! Included app/cost_import_add.sql
create or replace function app.cost_import_add(tenant_id uuid, ticket text, import_id uuid, rows text[])
returns integer
language plpgsql
security definer  -- the shell may not write lines
set search_path = ''
set timezone = 'UTC'  -- FOCUS times without a zone are UTC
as $$
declare
  v_count integer;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.cost_import_open(tenant_id, import_id, 'LOADING');

  -- Positional: the columns of app.cost_lines between the key and dq_flags are those of the row literals.
  insert into app.cost_lines
  select cost_import_add.tenant_id, cost_import_add.import_id, c.*, app_private.cost_line_flags(c)
  from unnest(rows::app.cost_line_cells[]) as c;
  get diagnostics v_count = row_count;

  return v_count;
exception
  when data_exception or integrity_constraint_violation then
    raise exception using
      errcode = 'IM102',
      message = 'import_invalid',
      detail  = pg_catalog.jsonb_build_object('sqlstate', sqlstate, 'reason', pg_catalog.left(sqlerrm, 300)),
      hint    = 'No line of this batch was kept. Mark the import failed with app.cost_import_fail.';
end
$$;

comment on function app.cost_import_add is
  'Adds a batch of lines, each a row literal of app.cost_line_cells; about 2,000 a call is quickest. Answers how many. '
  'Raises IM101, IM201, and IM102 when a line does not fit the table: then none of the batch is kept.';

grant execute on function app.cost_import_add to holdfast_service, holdfast_worker;
--! EndIncluded app/cost_import_add.sql
--! Included app/cost_import_roll_up.sql
create or replace function app.cost_import_roll_up(tenant_id uuid, ticket text, import_id uuid)
returns integer
language plpgsql
security definer  -- the shell may not write the roll-up
set search_path = ''
set timezone = 'UTC'
as $$
declare
  v_count integer;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.cost_import_open(tenant_id, import_id, 'LOADING');
  perform app_private.cost_import_flag(tenant_id, import_id);

  insert into app.cost_daily
  select l.tenant_id, l.import_id, row_number() over ()::integer, l.billing_period_start,
         l.charge_period_start::date, l.provider_name, l.sub_account_id, max(l.sub_account_name),
         l.service_category, l.service_name, l.region_id, l.charge_category,
         l.charge_class is not distinct from 'Correction', l.billing_currency,
         sum(l.billed_cost), sum(l.effective_cost), coalesce(sum(l.list_cost), 0),
         coalesce(sum(l.contracted_cost), 0),
         count(*), count(*) filter (where l.dq_flags <> '{}'),
         count(*) filter (where l.dq_flags && app_private.doubtful_flags())
  from app.cost_lines as l
  where l.tenant_id = cost_import_roll_up.tenant_id and l.import_id = cost_import_roll_up.import_id
  group by l.tenant_id, l.import_id, l.billing_period_start, l.charge_period_start::date, l.provider_name,
           l.sub_account_id, l.service_category, l.service_name, l.region_id, l.charge_category,
           l.charge_class is not distinct from 'Correction', l.billing_currency;
  get diagnostics v_count = row_count;

  if v_count = 0 then
    raise exception using
      errcode = 'IM103',
      message = 'import_empty',
      hint    = 'The file has a header and no line. Nothing was replaced.';
  end if;

  update app.cost_imports as i
  set status = 'LOADED',
      line_count = s.line_count,
      flagged_count = s.flagged_count,
      flags = s.flags
  from app_private.cost_import_counts(cost_import_roll_up.tenant_id, cost_import_roll_up.import_id) as s
  where i.tenant_id = cost_import_roll_up.tenant_id and i.id = cost_import_roll_up.import_id;

  return v_count;
end
$$;

comment on function app.cost_import_roll_up is
  'Ends the loading of an import: flags what only the whole file shows, sums the lines by day, counts. Answers the '
  'rows of the roll-up. The long part of an import, so that publishing is short. Raises IM101, IM201, IM103.';

grant execute on function app.cost_import_roll_up to holdfast_service, holdfast_worker;
--! EndIncluded app/cost_import_roll_up.sql
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
  -- Publishers of one source go one after another, so each can say what it took from the one before.
  perform pg_advisory_xact_lock(hashtextextended(tenant_id || v_import.source, 0));

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
--! Included app/cost_import_fail.sql
create or replace function app.cost_import_fail(tenant_id uuid, ticket text, import_id uuid, error jsonb)
returns void
language plpgsql
security definer  -- the shell may not write imports
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  update app.cost_imports as i
  set status = 'FAILED', error = coalesce(cost_import_fail.error, '{}'), finished_at = now()
  where i.tenant_id = cost_import_fail.tenant_id
    and i.id = import_id
    and i.status in ('LOADING', 'LOADED');

  if found then
    perform app_private.event_add(tenant_id, 'import.failed', import_id, coalesce(error, '{}'));
  else
    perform app_private.cost_import_open(tenant_id, import_id, 'LOADING');
  end if;
end
$$;

comment on function app.cost_import_fail is
  'Ends an import that cannot be published; its lines stay unseen and are swept. Raises IM101, IM201.';

grant execute on function app.cost_import_fail to holdfast_service, holdfast_worker;
--! EndIncluded app/cost_import_fail.sql
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
  update app.cost_imports as i
  set status = 'FAILED', error = '{"reason": "abandoned"}', finished_at = now()
  where i.status in ('LOADING', 'LOADED') and i.started_at < now() - interval '1 day';

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

-- Money: prices, budgets, reservations.
--! Included app/llm_prices.sql
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
--! EndIncluded app/llm_prices.sql
--! Included app/llm_budgets.sql
create table if not exists app.llm_budgets (
  tenant_id     uuid        not null,
  id            uuid        not null default app_private.uuid_v7(),
  scope         text        not null default 'tenant',
  scope_id      text        not null default '',
  period        text        not null default 'month',
  limit_nanousd bigint      not null,
  hard          boolean     not null default true,
  version       bigint      not null default 1,
  created_at    timestamptz not null default now(),
  updated_at    timestamptz not null default now(),

  constraint llm_budgets_pkey primary key (tenant_id, id),
  constraint llm_budgets_once unique (tenant_id, scope, scope_id, period),
  constraint llm_budgets_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint llm_budgets_scope_known check (scope in ('tenant')),
  constraint llm_budgets_scope_id_iff_not_tenant check ((scope = 'tenant') = (scope_id = '')),
  constraint llm_budgets_period_known check (period in ('day', 'week', 'month', 'total')),
  constraint llm_budgets_limit_not_negative check (limit_nanousd >= 0),
  constraint llm_budgets_hard_for_now check (hard)
);

comment on table app.llm_budgets is
  'How much a tenant may spend on LLM calls per period. No row: every call is refused. 0: '
  'every call is refused, free ones too.';
comment on column app.llm_budgets.tenant_id is 'Whose budget it is.';
comment on column app.llm_budgets.id is 'The budget.';
comment on column app.llm_budgets.scope is 'What it limits; the whole tenant.';
comment on column app.llm_budgets.scope_id is 'Which one of that scope; empty for the tenant.';
comment on column app.llm_budgets.period is 'day, week, month (in the time zone of the tenant) or total.';
comment on column app.llm_budgets.limit_nanousd is 'The limit per period, in nano-USD (10^-9 US dollars).';
comment on column app.llm_budgets.hard is 'A hard budget refuses; there is no other kind yet.';
comment on column app.llm_budgets.version is 'Rises by one with each change by a person.';
comment on column app.llm_budgets.created_at is 'When it was made.';
comment on column app.llm_budgets.updated_at is 'When a person last changed it.';

call app_private.isolate('app.llm_budgets', for_system => true);
grant select on app.llm_budgets to holdfast_tenant;
grant select, insert, update on app.llm_budgets to holdfast_system;
--! EndIncluded app/llm_budgets.sql
--! Included app/llm_budget_periods.sql
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
grant select on app.llm_budget_periods to holdfast_tenant;
grant select, update on app.llm_budget_periods to holdfast_system;
--! EndIncluded app/llm_budget_periods.sql
--! Included app/llm_reservations.sql
create table if not exists app.llm_reservations (
  tenant_id              uuid        not null,
  id                     uuid        not null default app_private.uuid_v7(),
  status                 text        not null default 'RESERVED',
  provider               text        not null,
  model                  text        not null,
  run_id                 uuid,
  attempt                integer     not null default 1,
  input_tokens_bound     bigint      not null,
  max_output_tokens      bigint      not null,
  estimated_cost_nanousd bigint      not null,
  cost_nanousd           bigint,
  price_ids              uuid[]      not null,
  reason                 text,
  created_at             timestamptz not null default now(),
  expires_at             timestamptz not null,
  closed_at              timestamptz,

  constraint llm_reservations_pkey primary key (tenant_id, id),
  constraint llm_reservations_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint llm_reservations_status_known
    check (status in ('RESERVED', 'APPLIED', 'RELEASED', 'PRESUMED', 'WRITTEN_OFF')),
  constraint llm_reservations_closed_at_iff_closed
    check ((status in ('APPLIED', 'RELEASED', 'WRITTEN_OFF')) = (closed_at is not null)),
  constraint llm_reservations_cost_iff_applied check ((status = 'APPLIED') = (cost_nanousd is not null)),
  constraint llm_reservations_amounts_not_negative check (
    estimated_cost_nanousd >= 0 and cost_nanousd >= 0 and input_tokens_bound >= 0 and max_output_tokens >= 0)
) partition by range (id);

create index if not exists llm_reservations_expires_at_idx
  on app.llm_reservations (expires_at) where status = 'RESERVED';
create index if not exists llm_reservations_run_id_idx on app.llm_reservations (tenant_id, run_id);

comment on table app.llm_reservations is
  'Money held before a model call, and how the hold ended. One row per call to a provider; never deleted.';
comment on column app.llm_reservations.tenant_id is 'Whose money it is.';
comment on column app.llm_reservations.id is 'The reservation.';
comment on column app.llm_reservations.status is
  'RESERVED, then APPLIED (settled), RELEASED (proven not billed) or PRESUMED (unknown, still counts), '
  'which ends APPLIED or WRITTEN_OFF.';
comment on column app.llm_reservations.provider is 'Who bills.';
comment on column app.llm_reservations.model is 'The model that is asked for.';
comment on column app.llm_reservations.run_id is 'The run that makes the call; null for a call of a client.';
comment on column app.llm_reservations.attempt is 'Which attempt of the run.';
comment on column app.llm_reservations.input_tokens_bound is 'No tokenizer can count more input tokens than this.';
comment on column app.llm_reservations.max_output_tokens is 'What the request allows the model to write.';
comment on column app.llm_reservations.estimated_cost_nanousd is
  'The hold: the most that the call can cost, in nano-USD.';
comment on column app.llm_reservations.cost_nanousd is 'What the call did cost, in nano-USD; null unless APPLIED.';
comment on column app.llm_reservations.price_ids is
  'The price versions it was computed with; settlement uses the same.';
comment on column app.llm_reservations.reason is 'Why it was released or presumed.';
comment on column app.llm_reservations.created_at is 'When it was made.';
comment on column app.llm_reservations.expires_at is 'When an unanswered hold becomes PRESUMED.';
comment on column app.llm_reservations.closed_at is 'When it ended; null while it is RESERVED or PRESUMED.';

call app_private.isolate('app.llm_reservations', for_system => true);
grant select on app.llm_reservations to holdfast_tenant;
grant select, update on app.llm_reservations to holdfast_system;
--! EndIncluded app/llm_reservations.sql
--! Included app/llm_reservation_keys.sql
create table if not exists app.llm_reservation_keys (
  tenant_id       uuid        not null,
  idempotency_key text        not null,
  fingerprint     text        not null,
  reservation_id  uuid        not null,
  created_at      timestamptz not null default now(),

  constraint llm_reservation_keys_pkey primary key (tenant_id, idempotency_key),
  constraint llm_reservation_keys_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint llm_reservation_keys_key_length check (length(idempotency_key) between 1 and 255)
);

comment on table app.llm_reservation_keys is
  'Which reservation an idempotency key made. Apart from the reservations, '
  'whose unique keys must hold their partition key.';
comment on column app.llm_reservation_keys.tenant_id is 'Whose key it is; another tenant may use the same.';
comment on column app.llm_reservation_keys.idempotency_key is 'What the caller named its request.';
comment on column app.llm_reservation_keys.fingerprint is
  'Digest of the request: the same key with another request is refused.';
comment on column app.llm_reservation_keys.reservation_id is 'The reservation that was made.';
comment on column app.llm_reservation_keys.created_at is 'When it was first used.';

call app_private.isolate('app.llm_reservation_keys');
--! EndIncluded app/llm_reservation_keys.sql
--! Included app/llm_reservation_budgets.sql
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
--! EndIncluded app/llm_reservation_budgets.sql
--! Included app/llm_usage.sql
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

  constraint llm_usage_pkey primary key (tenant_id, id),
  constraint llm_usage_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint llm_usage_status_known check (status in ('SETTLED')),
  constraint llm_usage_amounts_not_negative check (
    input_tokens >= 0 and output_tokens >= 0 and cost_nanousd >= 0 and over_hold_nanousd >= 0
    and cached_input_tokens between 0 and input_tokens)
) partition by range (id);

create index if not exists llm_usage_reservation_id_idx on app.llm_usage (tenant_id, reservation_id);

comment on table app.llm_usage is 'One row per settled call: tokens by kind and what they cost. Append only.';
comment on column app.llm_usage.tenant_id is 'Who pays.';
comment on column app.llm_usage.id is 'The row; UUIDv7, so also its moment.';
comment on column app.llm_usage.reservation_id is 'The hold that it settled.';
comment on column app.llm_usage.run_id is 'The run that made the call; null for a call of a client.';
comment on column app.llm_usage.provider is 'Who bills.';
comment on column app.llm_usage.model is 'The model that was asked for.';
comment on column app.llm_usage.response_model is 'The model that says it answered.';
comment on column app.llm_usage.status is 'SETTLED.';
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

call app_private.isolate('app.llm_usage', for_system => true);
grant select on app.llm_usage to holdfast_tenant;
grant select on app.llm_usage to holdfast_system;
--! EndIncluded app/llm_usage.sql
--! Included app_private/tg_llm_reservations__transition.sql
create or replace function app_private.tg_llm_reservations__transition() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if old.status is distinct from new.status
    and (old.status, new.status) not in (
      ('RESERVED', 'APPLIED'), ('RESERVED', 'RELEASED'), ('RESERVED', 'PRESUMED'),
      ('PRESUMED', 'APPLIED'), ('PRESUMED', 'WRITTEN_OFF'))
  then
    raise exception using
      errcode = 'LB201',
      message = 'reservation_closed',
      detail  = pg_catalog.jsonb_build_object('reservation_id', old.id, 'status', old.status,
                  'wanted', new.status),
      hint    = 'A reservation ends once. What it cost is in app.llm_usage.';
  end if;
  if new.estimated_cost_nanousd <> old.estimated_cost_nanousd or new.price_ids <> old.price_ids then
    raise exception using
      errcode = 'LB201',
      message = 'reservation_closed',
      detail  = pg_catalog.jsonb_build_object('reservation_id', old.id, 'status', old.status),
      hint    = 'The amount and the prices of a hold never change.';
  end if;
  return new;
end
$$;

comment on function app_private.tg_llm_reservations__transition is
  'Refuses any change of state that the life of a reservation does not have, whoever asks. Raises LB201.';

create or replace trigger _100_transition
  before update on app.llm_reservations
  for each row execute function app_private.tg_llm_reservations__transition();
--! EndIncluded app_private/tg_llm_reservations__transition.sql
--! Included app_private/period_bounds.sql
create or replace function app_private.period_bounds(period text, time_zone text, at timestamptz)
returns table (period_start timestamptz, period_end timestamptz)
language plpgsql
stable
set search_path = ''
as $$
declare
  v_begin timestamp;
begin
  if period = 'total' then
    return query select '-infinity'::timestamptz, 'infinity'::timestamptz;
    return;
  end if;

  v_begin := pg_catalog.date_trunc(period, at at time zone time_zone);
  -- Where clocks go back over midnight, that midnight comes twice and Postgres reads the second one: in the hour between
  -- them the period of the day before still runs.
  if v_begin at time zone time_zone > at then
    v_begin := pg_catalog.date_trunc(period, v_begin - interval '1 microsecond');
  end if;
  return query
  select v_begin at time zone time_zone, (v_begin + ('1 ' || period)::interval) at time zone time_zone;
end
$$;

comment on function app_private.period_bounds is
  'First moment of the day, week or month around a moment in a time zone, and the first moment after it; total is endless.';

grant execute on function app_private.period_bounds to holdfast_system;
--! EndIncluded app_private/period_bounds.sql
--! Included app_private/llm_price_of.sql
create or replace function app_private.llm_price_of(provider text, model text, at timestamptz)
returns table (input_rate numeric, cached_rate numeric, output_rate numeric, price_ids uuid[])
language plpgsql
stable
set search_path = ''
as $$
begin
  select max(p.usd_per_million) filter (where p.unit = 'input'),
         max(p.usd_per_million) filter (where p.unit = 'cached_input'),
         max(p.usd_per_million) filter (where p.unit = 'output'),
         array_agg(p.id order by p.unit)
  into input_rate, cached_rate, output_rate, price_ids
  from app.llm_prices as p
  where p.provider = llm_price_of.provider and p.model = llm_price_of.model and p.valid @> at;

  if input_rate is null or output_rate is null then
    raise exception using
      errcode = 'LB102',
      message = 'no_price',
      detail  = pg_catalog.jsonb_build_object('reason', 'no_price', 'provider', provider, 'model', model),
      hint    =
        pg_catalog.format('In psql: select * from ops.llm_price_set(%L, %L, input_usd_per_million => …, '
          'output_usd_per_million => …, reason => ''…'');', provider, model);
  end if;
  return next;
end
$$;

comment on function app_private.llm_price_of is
  'US dollars per million tokens of a model at a moment, and the versions they come from. Raises LB102 without a price '
  'for input and output; a missing price of cached input is null.';
--! EndIncluded app_private/llm_price_of.sql
--! Included app_private/llm_cost_nanousd.sql
create or replace function app_private.llm_cost_nanousd(
  input_tokens bigint, cached_input_tokens bigint, output_tokens bigint,
  input_rate numeric, cached_rate numeric, output_rate numeric) returns numeric
language sql
immutable
parallel safe
return ceil(1000 * (
  (input_tokens - cached_input_tokens) * input_rate
  + cached_input_tokens * coalesce(cached_rate, input_rate)
  + output_tokens * output_rate));

comment on function app_private.llm_cost_nanousd is
  'Nano-USD of a call, rounded up once: tokens x US dollars per million x 10^9 / 10^6. Without a price of its own, '
  'cached input costs what input does.';
--! EndIncluded app_private/llm_cost_nanousd.sql
--! Included app_private/usd.sql
create or replace function app_private.usd(nanousd numeric) returns numeric
language sql
immutable
parallel safe
return trim_scale(nanousd / 1000000000);

comment on function app_private.usd is 'Nano-USD as US dollars, exactly.';

grant execute on function app_private.usd to holdfast_system;
--! EndIncluded app_private/usd.sql
--! Included app_private/llm_budget_periods_open.sql
create or replace function app_private.llm_budget_periods_open(tenant_id uuid, at timestamptz)
returns table (budget_id uuid, period_start timestamptz)
language plpgsql
set search_path = ''
as $$
begin
  insert into app.llm_budget_periods as p (tenant_id, budget_id, period_start, period_end)
  select b.tenant_id, b.id, s.period_start, s.period_end
  from app.llm_budgets as b
  join app.tenants as t on t.tenant_id = b.tenant_id
  cross join lateral app_private.period_bounds(b.period, t.time_zone, at) as s
  where b.tenant_id = llm_budget_periods_open.tenant_id
    and not exists (
      select from app.llm_budget_periods as x
      where x.tenant_id = b.tenant_id and x.budget_id = b.id and x.period_start = s.period_start)
  order by b.id
  on conflict on constraint llm_budget_periods_pkey do nothing;

  return query
  select b.id, s.period_start
  from app.llm_budgets as b
  join app.tenants as t on t.tenant_id = b.tenant_id
  cross join lateral app_private.period_bounds(b.period, t.time_zone, at) as s
  where b.tenant_id = llm_budget_periods_open.tenant_id
  order by b.id;
end
$$;

comment on function app_private.llm_budget_periods_open is
  'The period rows that a call at this moment must fit, made where they are missing, '
  'in the order in which they are locked.';
--! EndIncluded app_private/llm_budget_periods_open.sql
--! Included app_private/llm_headroom.sql
create or replace function app_private.llm_headroom(tenant_id uuid, at timestamptz)
returns table (
  budget_id uuid, scope text, period text, period_start timestamptz, period_end timestamptz, hard boolean,
  limit_nanousd bigint, spent_nanousd bigint, reserved_nanousd bigint, presumed_nanousd bigint,
  left_nanousd bigint)
language sql
stable
set search_path = ''
as $$
  select b.id, b.scope, b.period, s.period_start, s.period_end, b.hard, b.limit_nanousd,
         coalesce(p.spent_nanousd, 0), coalesce(p.reserved_nanousd, 0), coalesce(p.presumed_nanousd, 0),
         b.limit_nanousd - coalesce(p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd, 0)
  from app.llm_budgets as b
  join app.tenants as t on t.tenant_id = b.tenant_id
  cross join lateral app_private.period_bounds(b.period, t.time_zone, $2) as s
  left join app.llm_budget_periods as p
    on p.tenant_id = b.tenant_id and p.budget_id = b.id and p.period_start = s.period_start
  where b.tenant_id = $1
  order by b.scope, b.period
$$;

comment on function app_private.llm_headroom is
  'Each budget of a tenant in its current period, whether or not its row was made yet; '
  'left may be negative after a cut.';

grant execute on function app_private.llm_headroom to holdfast_system;
--! EndIncluded app_private/llm_headroom.sql
--! Included app_private/llm_refuse.sql
create or replace function app_private.llm_refuse(
  tenant_id uuid, at timestamptz, needed_nanousd numeric, input_nanousd numeric, output_rate numeric)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_tight record;
begin
  -- The most lasting reason is told: who is told to wait for calls in flight must not wait for ever.
  select h.*, min(h.left_nanousd) over () as least_nanousd, min(h.limit_nanousd) over () = 0 as blocked
  into v_tight
  from app_private.llm_headroom(tenant_id, at) as h
  order by (h.limit_nanousd = 0) desc, (needed_nanousd > h.limit_nanousd) desc,
           (h.spent_nanousd + h.presumed_nanousd + needed_nanousd > h.limit_nanousd) desc,
           h.left_nanousd, h.budget_id
  limit 1;

  raise exception using
    errcode = 'LB101',
    message = 'budget_exceeded',
    detail  = pg_catalog.jsonb_build_object(
      'reason', case
        when v_tight is null then 'no_budget'
        when v_tight.limit_nanousd = 0 then 'zero'
        when needed_nanousd > v_tight.limit_nanousd then 'too_large'
        when v_tight.spent_nanousd + v_tight.presumed_nanousd + needed_nanousd <= v_tight.limit_nanousd
        then 'in_flight'
        else 'exhausted' end,
      'scope', v_tight.scope, 'period', v_tight.period, 'period_end', v_tight.period_end,
      'limit_nanousd', v_tight.limit_nanousd::text, 'spent_nanousd', v_tight.spent_nanousd::text,
      'reserved_nanousd', v_tight.reserved_nanousd::text, 'presumed_nanousd', v_tight.presumed_nanousd::text,
      'needed_nanousd', needed_nanousd::text,
      'max_affordable_output_tokens', case
        when not v_tight.blocked and output_rate > 0
        then greatest(0, floor((v_tight.least_nanousd - input_nanousd) / (1000 * output_rate))) else 0 end),
    hint = case
      when v_tight is null then
        'The tenant has no budget. In psql: select * from ops.budget_set(tenant => …, limit_usd => …, reason => …);'
      when v_tight.limit_nanousd = 0 then
        'A limit of 0 refuses every call. Raise it with ops.budget_set.'
      when needed_nanousd > v_tight.limit_nanousd then
        'The call alone is more than the limit. Ask for less, or raise the limit with ops.budget_set.'
      when v_tight.spent_nanousd + v_tight.presumed_nanousd + needed_nanousd <= v_tight.limit_nanousd then
        'Calls that are under way hold the rest. Try again when they have ended.'
      else
        'Wait for the next period, ask for less, or raise the limit with ops.budget_set.' end;
end
$$;

comment on function app_private.llm_refuse is
  'Raises LB101 budget_exceeded, saying which budget is the tightest, why, and how many output tokens would fit.';
--! EndIncluded app_private/llm_refuse.sql
--! Included app_private/llm_headroom_check.sql
create or replace function app_private.llm_headroom_check(
  tenant_id uuid, provider text, model text, input_tokens_bound bigint, max_output_tokens bigint) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_at     constant timestamptz := pg_catalog.clock_timestamp();
  v_price  record;
  v_needed numeric;
  v_tight  bigint;
begin
  perform app_private.llm_request_check('headroom', input_tokens_bound, max_output_tokens, 1, interval '0');
  select p.* into v_price from app_private.llm_price_of(provider, model, v_at) as p;
  v_needed := app_private.llm_cost_nanousd(input_tokens_bound, 0, max_output_tokens,
    greatest(v_price.input_rate, v_price.cached_rate), null, v_price.output_rate);

  select min(case when h.limit_nanousd = 0 then -1 else h.left_nanousd end) into v_tight
  from app_private.llm_headroom(tenant_id, v_at) as h;
  if v_tight is null or v_tight < v_needed or v_tight < 0 then
    perform app_private.llm_refuse(tenant_id, v_at, v_needed,
      app_private.llm_cost_nanousd(input_tokens_bound, 0, 0,
        greatest(v_price.input_rate, v_price.cached_rate), null, 0),
      v_price.output_rate);
  end if;
end
$$;

comment on function app_private.llm_headroom_check is
  'Passes when a call of that size would fit the budget now; holds nothing, so the call itself still reserves. Raises '
  'LB101, LB102, LB105.';
--! EndIncluded app_private/llm_headroom_check.sql
--! Included app_private/llm_reservation_replay.sql
create or replace function app_private.llm_reservation_replay(
  tenant_id uuid, idempotency_key text, fingerprint text) returns app.llm_reservations
language plpgsql
set search_path = ''
as $$
declare
  v_key         app.llm_reservation_keys;
  v_reservation app.llm_reservations;
begin
  select k.* into v_key
  from app.llm_reservation_keys as k
  where k.tenant_id = llm_reservation_replay.tenant_id
    and k.idempotency_key = llm_reservation_replay.idempotency_key;
  if not found then
    return null;
  end if;
  if v_key.fingerprint <> fingerprint then
    raise exception using
      errcode = 'LB103',
      message = 'idempotency_conflict',
      hint    = 'The key was used with another model or other bounds. Use a new key for a new request.';
  end if;
  select r.* into v_reservation
  from app.llm_reservations as r
  where r.tenant_id = v_key.tenant_id and r.id = v_key.reservation_id;
  return v_reservation;
end
$$;

comment on function app_private.llm_reservation_replay is
  'The reservation that this key made before, or null. Raises LB103 when it was made for another request.';
--! EndIncluded app_private/llm_reservation_replay.sql
--! Included app_private/llm_admit.sql
create or replace function app_private.llm_admit(
  tenant_id uuid, reservation_id uuid, amount_nanousd bigint, at timestamptz)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_held     integer;
  v_admitted integer;
begin
  insert into app.llm_reservation_budgets (tenant_id, reservation_id, budget_id, period_start)
  select llm_admit.tenant_id, llm_admit.reservation_id, o.budget_id, o.period_start
  from app_private.llm_budget_periods_open(llm_admit.tenant_id, at) as o;
  get diagnostics v_held = row_count;

  -- Locked in key order, so that two calls that hold several budgets cannot deadlock; tested and changed in one statement.
  with held as (
    select p.tenant_id, p.budget_id, p.period_start
    from app.llm_reservation_budgets as h
    join app.llm_budget_periods as p
      on p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start
    where h.tenant_id = llm_admit.tenant_id and h.reservation_id = llm_admit.reservation_id
    order by p.budget_id
    for no key update of p
  )
  update app.llm_budget_periods as p
  set reserved_nanousd = p.reserved_nanousd + amount_nanousd,
      admitted_limit_nanousd = greatest(p.admitted_limit_nanousd, b.limit_nanousd)
  from held as h
  join app.llm_budgets as b on b.tenant_id = h.tenant_id and b.id = h.budget_id
  where p.tenant_id = h.tenant_id
    and p.budget_id = h.budget_id
    and p.period_start = h.period_start
    and b.limit_nanousd > 0
    and p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd + amount_nanousd <= b.limit_nanousd;
  get diagnostics v_admitted = row_count;

  return v_held > 0 and v_admitted = v_held;
end
$$;

comment on function app_private.llm_admit is
  'Holds the amount in every budget of the tenant; false when it does not fit them all, '
  'and then the caller must raise.';
--! EndIncluded app_private/llm_admit.sql
--! Included app_private/llm_move.sql
create or replace function app_private.llm_move(
  tenant_id uuid, reservation_id uuid, from_status text, amount_nanousd bigint, to_status text,
  cost_nanousd bigint)
returns void
language plpgsql
set search_path = ''
as $$
begin
  with held as (
    select p.tenant_id, p.budget_id, p.period_start
    from app.llm_reservation_budgets as h
    join app.llm_budget_periods as p
      on p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start
    where h.tenant_id = llm_move.tenant_id and h.reservation_id = llm_move.reservation_id
    order by p.budget_id
    for no key update of p
  )
  update app.llm_budget_periods as p
  set reserved_nanousd = p.reserved_nanousd
        - case when from_status = 'RESERVED' then amount_nanousd else 0 end,
      presumed_nanousd = p.presumed_nanousd
        - case when from_status = 'PRESUMED' then amount_nanousd else 0 end
        + case when to_status = 'PRESUMED' then amount_nanousd else 0 end,
      spent_nanousd = p.spent_nanousd + coalesce(llm_move.cost_nanousd, 0)
  from held as h
  where p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start;
end
$$;

comment on function app_private.llm_move is
  'Moves the amount of a hold in every budget that it holds: out of reserved or presumed, into presumed or spent. It '
  'lands in the period in which it was reserved, also when that period is over.';
--! EndIncluded app_private/llm_move.sql
--! Included app_private/llm_reservation_lock.sql
create or replace function app_private.llm_reservation_lock(tenant_id uuid, reservation_id uuid)
returns app.llm_reservations
language plpgsql
set search_path = ''
as $$
declare
  v_reservation app.llm_reservations;
begin
  select r.* into v_reservation
  from app.llm_reservations as r
  where r.tenant_id = llm_reservation_lock.tenant_id and r.id = reservation_id
  for no key update;
  if not found then
    raise exception using
      errcode = 'LB104',
      message = 'reservation_not_found',
      hint    = 'Use the id that llm_reserve answered, for the tenant that reserved it.';
  end if;
  return v_reservation;
end
$$;

comment on function app_private.llm_reservation_lock is
  'The reservation, locked. Raises LB104, alike for an absent and a foreign id.';
--! EndIncluded app_private/llm_reservation_lock.sql
--! Included app_private/llm_request_check.sql
create or replace function app_private.llm_request_check(
  idempotency_key text, input_tokens_bound bigint, max_output_tokens bigint, attempt integer, ttl interval)
returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  if coalesce(pg_catalog.length(idempotency_key), 0) not between 1 and 255
    or coalesce(input_tokens_bound, -1) not between 0 and 100000000
    or coalesce(max_output_tokens, -1) not between 0 and 100000000
    or coalesce(attempt, 0) not between 1 and 1000000
    or coalesce(ttl, interval '-1 second') not between interval '0' and interval '1 hour'
  then
    raise exception using
      errcode = 'LB105',
      message = 'reservation_invalid',
      detail  = pg_catalog.jsonb_build_object('input_tokens_bound', input_tokens_bound,
                  'max_output_tokens', max_output_tokens, 'ttl', ttl),
      hint    =
        'The key has 1 to 255 characters, tokens are 0 to 100,000,000, an attempt counts from 1, the ttl is at most an hour.';
  end if;
end
$$;

comment on function app_private.llm_request_check is 'Raises LB105 unless the numbers of a request can be held.';
--! EndIncluded app_private/llm_request_check.sql
--! Included app_private/llm_usage_check.sql
create or replace function app_private.llm_usage_check(
  input_tokens bigint, cached_input_tokens bigint, output_tokens bigint)
returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  if coalesce(input_tokens, -1) not between 0 and 100000000
    or coalesce(output_tokens, -1) not between 0 and 100000000
    or coalesce(cached_input_tokens, -1) not between 0 and input_tokens
  then
    raise exception using
      errcode = 'LB105',
      message = 'reservation_invalid',
      detail  = pg_catalog.jsonb_build_object('input_tokens', input_tokens,
                  'cached_input_tokens', cached_input_tokens, 'output_tokens', output_tokens),
      hint    = 'Tokens are 0 to 100,000,000, and cached input tokens are part of the input tokens.';
  end if;
end
$$;

comment on function app_private.llm_usage_check is 'Raises LB105 unless the tokens of a call can be settled.';
--! EndIncluded app_private/llm_usage_check.sql
--! Included app_private/llm_closed.sql
create or replace function app_private.llm_closed(held app.llm_reservations) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'LB201',
    message = 'reservation_closed',
    detail  = pg_catalog.jsonb_build_object('reservation_id', held.id, 'status', held.status),
    hint    = 'A reservation ends once. What it cost is in app.llm_usage.';
end
$$;

comment on function app_private.llm_closed is 'Raises LB201: the reservation has ended in another way.';

grant execute on function app_private.llm_closed to holdfast_system;
--! EndIncluded app_private/llm_closed.sql
--! Included app_private/llm_end.sql
create or replace function app_private.llm_end(
  tenant_id uuid, reservation_id uuid, to_status text, reason text)
returns table (id uuid, status text)
language plpgsql
set search_path = ''
as $$
declare
  v_held app.llm_reservations;
begin
  v_held := app_private.llm_reservation_lock(tenant_id, reservation_id);

  if v_held.status <> to_status then
    update app.llm_reservations as r
    set status = to_status,
        reason = pg_catalog.left(llm_end.reason, 200),
        closed_at = case when to_status = 'RELEASED' then pg_catalog.clock_timestamp() end
    where r.tenant_id = v_held.tenant_id and r.id = v_held.id;

    perform app_private.llm_move(tenant_id, v_held.id, v_held.status, v_held.estimated_cost_nanousd,
      to_status, null);
  end if;

  return query select v_held.id, to_status;
end
$$;

comment on function app_private.llm_end is
  'Ends a hold without a cost, RELEASED or PRESUMED, once. Raises LB104, and LB201 by the transition trigger.';
--! EndIncluded app_private/llm_end.sql
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
  'same key and request answer the first hold again. Raises LB101 budget_exceeded, LB102 no_price, LB103, LB105.';

grant execute on function app.llm_reserve to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_reserve.sql
--! Included app/llm_settle.sql
create or replace function app.llm_settle(
  tenant_id uuid, ticket text, reservation_id uuid, input_tokens bigint, output_tokens bigint,
  cached_input_tokens bigint default 0, provider_request_id text default null,
  response_model text default null, finish_reason text default null, simulated boolean default false)
returns table (id uuid, status text, cost_nanousd bigint, over_hold_nanousd bigint)
language plpgsql
security definer  -- the shell may not write usage
set search_path = ''
as $$
declare
  v_held app.llm_reservations;
  v_cost numeric;
  v_over bigint;
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.llm_usage_check(input_tokens, cached_input_tokens, output_tokens);
  v_held := app_private.llm_reservation_lock(tenant_id, reservation_id);

  -- A second, identical settle gets the first answer; a different one is refused by the transition trigger below.
  if v_held.status = 'APPLIED' then
    return query
    select u.reservation_id, 'APPLIED', u.cost_nanousd, u.over_hold_nanousd
    from app.llm_usage as u
    where u.tenant_id = v_held.tenant_id and u.reservation_id = v_held.id
      and (u.input_tokens, u.cached_input_tokens, u.output_tokens)
        = (llm_settle.input_tokens, llm_settle.cached_input_tokens, llm_settle.output_tokens);
    if found then
      return;
    end if;
    perform app_private.llm_closed(v_held);
  end if;

  select app_private.llm_cost_nanousd(llm_settle.input_tokens, llm_settle.cached_input_tokens,
           llm_settle.output_tokens,
           max(p.usd_per_million) filter (where p.unit = 'input'),
           max(p.usd_per_million) filter (where p.unit = 'cached_input'),
           max(p.usd_per_million) filter (where p.unit = 'output'))
  into v_cost
  from app.llm_prices as p
  where p.id = any (v_held.price_ids);
  v_over := greatest(0, v_cost - v_held.estimated_cost_nanousd);

  update app.llm_reservations as r
  set status = 'APPLIED', cost_nanousd = v_cost, closed_at = pg_catalog.clock_timestamp()
  where r.tenant_id = v_held.tenant_id and r.id = v_held.id;

  insert into app.llm_usage (tenant_id, reservation_id, run_id, provider, model, response_model, input_tokens,
    cached_input_tokens, output_tokens, cost_nanousd, over_hold_nanousd, provider_request_id, finish_reason,
    simulated)
  values (v_held.tenant_id, v_held.id, v_held.run_id, v_held.provider, v_held.model,
    pg_catalog.left(llm_settle.response_model, 200), llm_settle.input_tokens, llm_settle.cached_input_tokens,
    llm_settle.output_tokens, v_cost, v_over, pg_catalog.left(llm_settle.provider_request_id, 200),
    pg_catalog.left(llm_settle.finish_reason, 50), llm_settle.simulated);

  perform app_private.llm_move(tenant_id, v_held.id, v_held.status, v_held.estimated_cost_nanousd, 'APPLIED',
    v_cost::bigint);

  return query select v_held.id, 'APPLIED', v_cost::bigint, v_over;
end
$$;

comment on function app.llm_settle is
  'Replaces a hold by what the call did cost, at the prices of the moment it was reserved. A presumed hold may be '
  'settled late, and a cost above the hold is recorded, never hidden. Raises LB104, LB105, LB201.';

grant execute on function app.llm_settle to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_settle.sql
--! Included app/llm_release.sql
create or replace function app.llm_release(tenant_id uuid, ticket text, reservation_id uuid, reason text)
returns table (id uuid, status text)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  return query select * from app_private.llm_end(tenant_id, reservation_id, 'RELEASED', reason);
end
$$;

comment on function app.llm_release is
  'Gives a hold back, with proof that nothing was billed: the call was never sent, or was refused before it was run. '
  'The same call again answers the same. Raises LB104, LB201.';

grant execute on function app.llm_release to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_release.sql
--! Included app/llm_presume.sql
create or replace function app.llm_presume(tenant_id uuid, ticket text, reservation_id uuid, reason text)
returns table (id uuid, status text)
language plpgsql
security definer  -- the shell may not write reservations
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  return query select * from app_private.llm_end(tenant_id, reservation_id, 'PRESUMED', reason);
end
$$;

comment on function app.llm_presume is
  'Marks a hold whose outcome is unknown: the call may have been billed, so it counts until it is settled or written '
  'off. The same call again answers the same. Raises LB104, LB201.';

grant execute on function app.llm_presume to holdfast_service, holdfast_worker;
--! EndIncluded app/llm_presume.sql
--! Included app/llm_expire.sql
set local role holdfast_system;

create or replace function app.llm_expire(max_rows integer default 500)
returns table (tenant_id uuid, reservation_id uuid, run_id uuid)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
begin
  return query
  with due as materialized (
    select r.tenant_id, r.id, r.estimated_cost_nanousd
    from app.llm_reservations as r
    where r.status = 'RESERVED' and r.expires_at < pg_catalog.clock_timestamp()
    order by r.expires_at
    limit max_rows
    for no key update skip locked
  ),
  presumed as (
    update app.llm_reservations as r
    set status = 'PRESUMED', reason = 'expired'
    from due as d
    where r.tenant_id = d.tenant_id and r.id = d.id
    returning r.tenant_id, r.id, r.run_id, r.estimated_cost_nanousd
  ),
  moved as (
    select h.tenant_id, h.budget_id, h.period_start, sum(p.estimated_cost_nanousd)::bigint as amount
    from presumed as p
    join app.llm_reservation_budgets as h on h.tenant_id = p.tenant_id and h.reservation_id = p.id
    group by h.tenant_id, h.budget_id, h.period_start
  ),
  locked as materialized (
    select b.tenant_id, b.budget_id, b.period_start, m.amount
    from moved as m
    join app.llm_budget_periods as b
      on b.tenant_id = m.tenant_id and b.budget_id = m.budget_id and b.period_start = m.period_start
    order by b.tenant_id, b.budget_id, b.period_start
    for no key update of b
  ),
  counted as (
    update app.llm_budget_periods as b
    set reserved_nanousd = b.reserved_nanousd - l.amount,
        presumed_nanousd = b.presumed_nanousd + l.amount
    from locked as l
    where b.tenant_id = l.tenant_id and b.budget_id = l.budget_id and b.period_start = l.period_start
  )
  select p.tenant_id, p.id, p.run_id from presumed as p;
end
$$;

comment on function app.llm_expire is
  'Turns holds past their time into PRESUMED, among all tenants, max_rows at a time; answers which. It only '
  'tidies: an expired hold counts the same before and after.';

grant execute on function app.llm_expire to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/llm_expire.sql
--! Included app/llm_check.sql
set local role holdfast_system;

create or replace function app.llm_check() returns table (invariant text, tenant_id uuid, facts jsonb)
language plpgsql
stable
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
begin
  return query
  with sums as (
    select h.tenant_id, h.budget_id, h.period_start,
           coalesce(sum(r.estimated_cost_nanousd) filter (where r.status = 'RESERVED'), 0) as reserved,
           coalesce(sum(r.estimated_cost_nanousd) filter (where r.status = 'PRESUMED'), 0) as presumed,
           coalesce(sum(r.cost_nanousd), 0) as spent,
           coalesce(sum(greatest(0, r.cost_nanousd - r.estimated_cost_nanousd)), 0) as over
    from app.llm_reservation_budgets as h
    join app.llm_reservations as r on r.tenant_id = h.tenant_id and r.id = h.reservation_id
    group by h.tenant_id, h.budget_id, h.period_start
  ),
  pairs as (
    select coalesce(p.tenant_id, s.tenant_id) as tenant_id, coalesce(p.budget_id, s.budget_id) as budget_id,
           p.period_start, s.reserved, s.presumed, s.spent, s.over, p
    from app.llm_budget_periods as p
    full join sums as s
      on s.tenant_id = p.tenant_id and s.budget_id = p.budget_id and s.period_start = p.period_start
  )
  select 'counters_equal_reservations', x.tenant_id, to_jsonb(x)
  from pairs as x
  where ((x.p).reserved_nanousd, (x.p).presumed_nanousd, (x.p).spent_nanousd)
    is distinct from (coalesce(x.reserved, 0), coalesce(x.presumed, 0), coalesce(x.spent, 0))
  union all
  select 'never_over_the_limit', x.tenant_id, to_jsonb(x)
  from pairs as x
  where (x.p).reserved_nanousd + (x.p).presumed_nanousd + (x.p).spent_nanousd
    > (x.p).admitted_limit_nanousd + coalesce(x.over, 0)
  union all
  select 'reservation_holds_a_budget', r.tenant_id, to_jsonb(r)
  from app.llm_reservations as r
  where not exists (
    select from app.llm_reservation_budgets as h where h.tenant_id = r.tenant_id and h.reservation_id = r.id)
  union all
  select 'applied_has_one_usage', r.tenant_id, to_jsonb(r)
  from app.llm_reservations as r
  left join lateral (
    select count(*) as rows, sum(u.cost_nanousd) as cost
    from app.llm_usage as u
    where u.tenant_id = r.tenant_id and u.reservation_id = r.id) as x on true
  where (x.rows, x.cost) is distinct from ((r.status = 'APPLIED')::integer, r.cost_nanousd)
  union all
  select 'usage_has_a_reservation', u.tenant_id, to_jsonb(u)
  from app.llm_usage as u
  where not exists (
    select from app.llm_reservations as r where r.tenant_id = u.tenant_id and r.id = u.reservation_id);
end
$$;

comment on function app.llm_check is
  'Every broken invariant of the budget, among all tenants; no row when all is sound. Counters equal the reservations; '
  'spent + reserved + presumed is at most the limit plus recorded over-runs; each settled call has one usage row.';

grant execute on function app.llm_check to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/llm_check.sql
--! Included app/budget_status.sql
create or replace function app.budget_status(tenant_id uuid, ticket text)
returns table (
  scope text, period text, period_start timestamptz, period_end timestamptz, hard boolean,
  limit_nanousd bigint, spent_nanousd bigint, reserved_nanousd bigint, presumed_nanousd bigint,
  left_nanousd bigint,
  limit_usd numeric, spent_usd numeric, reserved_usd numeric, presumed_usd numeric, left_usd numeric)
language plpgsql
security definer  -- the service role may not read budgets
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  return query
  select h.scope, h.period, nullif(h.period_start, '-infinity'), nullif(h.period_end, 'infinity'), h.hard,
         h.limit_nanousd, h.spent_nanousd, h.reserved_nanousd, h.presumed_nanousd, h.left_nanousd,
         app_private.usd(h.limit_nanousd), app_private.usd(h.spent_nanousd),
         app_private.usd(h.reserved_nanousd), app_private.usd(h.presumed_nanousd),
         app_private.usd(h.left_nanousd)
  from app_private.llm_headroom(budget_status.tenant_id, pg_catalog.now()) as h;
end
$$;

comment on function app.budget_status is
  'The budgets of a tenant in their current period, in nano-USD and in dollars; total has no bounds (null). '
  'left = limit - spent - reserved - presumed.';

grant execute on function app.budget_status to holdfast_service, holdfast_worker;
--! EndIncluded app/budget_status.sql

-- Jobs and the scheduler.
--! Included app/job_kinds.sql
create table if not exists app.job_kinds (
  kind                text    not null,
  timeout_seconds     integer not null default 300,
  max_retries         integer not null default 3,
  backoff_base_ms     integer not null default 2000,
  backoff_cap_ms      integer not null default 3600000,
  non_retryable_codes text[]  not null default '{}',
  description         text    not null,

  constraint job_kinds_pkey primary key (kind),
  constraint job_kinds_timeout_seconds_sane check (timeout_seconds between 1 and 86400),
  constraint job_kinds_max_retries_sane check (max_retries between 0 and 100),
  constraint job_kinds_backoff_sane check (backoff_base_ms > 0 and backoff_cap_ms >= backoff_base_ms)
);

comment on table app.job_kinds is
  'What kinds of job there are, how long one may run and how it is tried again. An operator may change the rows.';
comment on column app.job_kinds.kind is 'The name; tasks/ has a file for each.';
comment on column app.job_kinds.timeout_seconds is 'How long one attempt may take.';
comment on column app.job_kinds.max_retries is 'Attempts after the first failure; then the run is a dead letter.';
comment on column app.job_kinds.backoff_base_ms is 'Wait after the first failure; it doubles with each.';
comment on column app.job_kinds.backoff_cap_ms is
  'The wait stops doubling here; jitter makes it half to one and a half of it.';
comment on column app.job_kinds.non_retryable_codes is 'Error codes that make a run a dead letter at once.';
comment on column app.job_kinds.description is 'What it does.';

insert into app.job_kinds (kind, timeout_seconds, max_retries, non_retryable_codes, description)
values ('analysis', 120, 3, array['analysis_invalid'],
        'Runs the detectors over the costs of a tenant and has a model word what they found.')
on conflict on constraint job_kinds_pkey do nothing;

grant select on app.job_kinds to holdfast_system, holdfast_tenant;
--! EndIncluded app/job_kinds.sql
--! Included app/job_run_transitions.sql
create table if not exists app.job_run_transitions (
  from_state text not null,
  to_state   text not null,
  meaning    text not null,

  constraint job_run_transitions_pkey primary key (from_state, to_state)
);

comment on table app.job_run_transitions is
  'The life of a run: every change of state that is not a row here is refused, whoever asks.';
comment on column app.job_run_transitions.from_state is 'The state before.';
comment on column app.job_run_transitions.to_state is 'The state after.';
comment on column app.job_run_transitions.meaning is 'What happened.';

insert into app.job_run_transitions (from_state, to_state, meaning)
values
  ('PENDING',     'RUNNING',     'A worker claimed it.'),
  ('RUNNING',     'COMPLETED',   'The attempt ended, and its work was committed with it.'),
  ('RUNNING',     'FAILED',      'The attempt failed or its worker died; it is tried again.'),
  ('RUNNING',     'DEAD_LETTER', 'The attempt failed for good.'),
  ('RUNNING',     'PENDING',     'The worker was stopped; the attempt does not count.'),
  ('FAILED',      'RUNNING',     'A worker claimed it again.'),
  ('FAILED',      'DEAD_LETTER', 'A person gave it up.'),
  ('DEAD_LETTER', 'PENDING',     'A person replays it.')
on conflict on constraint job_run_transitions_pkey do nothing;

grant select on app.job_run_transitions to holdfast_system, holdfast_tenant;
--! EndIncluded app/job_run_transitions.sql
--! Included app/job_runs.sql
create table if not exists app.job_runs (
  tenant_id     uuid        not null,
  id            uuid        not null default app_private.uuid_v7(),
  kind          text        not null,
  slot          bigint,
  state         text        not null default 'PENDING',
  attempt       integer     not null default 0,
  failure_count integer     not null default 0,
  crash_count   integer     not null default 0,
  priority      smallint    not null default 0,
  input         jsonb       not null default '{}',
  result        jsonb,
  error_code    text,
  error         text,
  worker        text,
  available_at  timestamptz not null default now(),
  token_at      timestamptz not null default now(),
  lease_until   timestamptz,
  created_at    timestamptz not null default now(),
  started_at    timestamptz,
  finished_at   timestamptz,

  constraint job_runs_pkey primary key (tenant_id, id),
  constraint job_runs_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint job_runs_kind_fkey foreign key (kind) references app.job_kinds (kind) on delete restrict,
  constraint job_runs_state_known
    check (state in ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'DEAD_LETTER')),
  constraint job_runs_lease_iff_running check ((state = 'RUNNING') = (lease_until is not null)),
  constraint job_runs_finished_at_iff_ended
    check ((state in ('COMPLETED', 'DEAD_LETTER')) = (finished_at is not null)),
  constraint job_runs_error_code_iff_failed
    check (state not in ('FAILED', 'DEAD_LETTER') or error_code is not null),
  constraint job_runs_counts_sane check (attempt >= 0 and failure_count >= 0 and crash_count >= 0)
) partition by range (id);

create index if not exists job_runs_live_idx
  on app.job_runs (tenant_id, kind) where state in ('PENDING', 'RUNNING', 'FAILED');
create index if not exists job_runs_lease_until_idx on app.job_runs (lease_until) where state = 'RUNNING';
create index if not exists job_runs_available_at_idx
  on app.job_runs (available_at) where state in ('PENDING', 'FAILED');
create index if not exists job_runs_kind_idx on app.job_runs (kind);

comment on table app.job_runs is
  'The truth about every job. A job of graphile-worker is only a token that wakes a worker up for one of these.';
comment on column app.job_runs.tenant_id is 'Whose run it is.';
comment on column app.job_runs.id is 'The run; UUIDv7.';
comment on column app.job_runs.kind is 'What it does; see app.job_kinds.';
comment on column app.job_runs.slot is 'Which turn of the scheduler made it; null when someone asked for it.';
comment on column app.job_runs.state is
  'PENDING, RUNNING, then COMPLETED, or FAILED (tried again), or DEAD_LETTER; see app.job_run_transitions.';
comment on column app.job_runs.attempt is 'Counts the claims. It fences: what an older attempt writes is refused.';
comment on column app.job_runs.failure_count is 'How many attempts failed.';
comment on column app.job_runs.crash_count is 'How many attempts ended with a lost worker; three make a dead letter.';
comment on column app.job_runs.priority is 'Which goes first; lower is earlier.';
comment on column app.job_runs.input is 'What the task was asked.';
comment on column app.job_runs.result is 'What the task answered.';
comment on column app.job_runs.error_code is 'The fixed name of the last error.';
comment on column app.job_runs.error is 'The last error, for a person; never a secret or a prompt.';
comment on column app.job_runs.worker is 'Who claimed it; null once that worker was lost.';
comment on column app.job_runs.available_at is 'Not claimed before this.';
comment on column app.job_runs.token_at is 'When its last token was queued; a lost one is queued again.';
comment on column app.job_runs.lease_until is 'When its worker counts as lost, unless it beats; null unless RUNNING.';
comment on column app.job_runs.created_at is 'When it was made.';
comment on column app.job_runs.started_at is 'When the last attempt began.';
comment on column app.job_runs.finished_at is 'When it ended for good.';

call app_private.isolate('app.job_runs', for_system => true);
grant select on app.job_runs to holdfast_tenant;
grant select, insert, update on app.job_runs to holdfast_system;
--! EndIncluded app/job_runs.sql
--! Included app/job_slots.sql
create table if not exists app.job_slots (
  tenant_id uuid   not null,
  kind      text   not null,
  slot      bigint not null,
  run_id    uuid   not null,

  constraint job_slots_pkey primary key (tenant_id, kind, slot),
  constraint job_slots_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint job_slots_kind_fkey foreign key (kind) references app.job_kinds (kind) on delete restrict
);

create index if not exists job_slots_kind_idx on app.job_slots (kind);

comment on table app.job_slots is
  'Which turns of the scheduler were taken: one run per tenant, kind and slot, whoever ticks.';
comment on column app.job_slots.tenant_id is 'Whose turn it is.';
comment on column app.job_slots.kind is 'The kind of run.';
comment on column app.job_slots.slot is 'The number of the period since 1970, shifted by the phase of the shard.';
comment on column app.job_slots.run_id is 'The run that was made.';

call app_private.isolate('app.job_slots', for_system => true);
grant select, insert on app.job_slots to holdfast_system;
--! EndIncluded app/job_slots.sql
--! Included app/job_run_keys.sql
create table if not exists app.job_run_keys (
  tenant_id       uuid        not null,
  idempotency_key text        not null,
  fingerprint     text        not null,
  run_id          uuid        not null,
  created_at      timestamptz not null default now(),

  constraint job_run_keys_pkey primary key (tenant_id, idempotency_key),
  constraint job_run_keys_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint job_run_keys_key_length check (length(idempotency_key) between 1 and 255)
);

comment on table app.job_run_keys is 'Which run an idempotency key made.';
comment on column app.job_run_keys.tenant_id is 'Whose key it is; another tenant may use the same.';
comment on column app.job_run_keys.idempotency_key is 'What the caller named its request.';
comment on column app.job_run_keys.fingerprint is
  'Digest of the request: the same key with another request is refused.';
comment on column app.job_run_keys.run_id is 'The run that was made.';
comment on column app.job_run_keys.created_at is 'When it was first used.';

call app_private.isolate('app.job_run_keys');
--! EndIncluded app/job_run_keys.sql
--! Included app/job_run_events.sql
create table if not exists app.job_run_events (
  tenant_id  uuid        not null,
  id         uuid        not null default app_private.uuid_v7(),
  run_id     uuid        not null,
  from_state text,
  to_state   text        not null,
  attempt    integer     not null,
  actor      text        not null,
  reason     text,
  created_at timestamptz not null default clock_timestamp(),

  constraint job_run_events_pkey primary key (tenant_id, id),
  constraint job_run_events_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict
) partition by range (id);

create index if not exists job_run_events_run_id_idx on app.job_run_events (tenant_id, run_id, id);

comment on table app.job_run_events is
  'The audit trail: every change of state that is made through app.job_runs, written by a trigger. Append only.';
comment on column app.job_run_events.tenant_id is 'Whose run it is.';
comment on column app.job_run_events.id is 'UUIDv7: also the order of events.';
comment on column app.job_run_events.run_id is 'The run.';
comment on column app.job_run_events.from_state is 'The state before; null for a new run.';
comment on column app.job_run_events.to_state is 'The state after.';
comment on column app.job_run_events.attempt is 'The attempt that it was.';
comment on column app.job_run_events.actor is 'The worker, or the login that made the change.';
comment on column app.job_run_events.reason is 'The error code, where there was one.';
comment on column app.job_run_events.created_at is 'When it happened.';

call app_private.isolate('app.job_run_events', for_system => true);
grant select on app.job_run_events to holdfast_tenant;
grant select, insert on app.job_run_events to holdfast_system;
--! EndIncluded app/job_run_events.sql
--! Included app_private/tg_job_runs__transition.sql
create or replace function app_private.tg_job_runs__transition() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if not exists (
    select from app.job_run_transitions as t where t.from_state = old.state and t.to_state = new.state)
  then
    raise exception using
      errcode = 'JB202',
      message = 'job_transition_refused',
      detail  = pg_catalog.jsonb_build_object('run_id', old.id, 'from', old.state, 'to', new.state),
      hint    = 'select * from app.job_run_transitions lists the changes that a run may make.';
  end if;
  return new;
end
$$;

comment on function app_private.tg_job_runs__transition is
  'Refuses a change of state that is not a row of app.job_run_transitions. Raises JB202.';

create or replace trigger _100_transition
  before update on app.job_runs
  for each row when (old.state is distinct from new.state)
  execute function app_private.tg_job_runs__transition();
--! EndIncluded app_private/tg_job_runs__transition.sql
--! Included app_private/tg_job_runs__audit.sql
create or replace function app_private.tg_job_runs__audit() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    insert into app.job_run_events (tenant_id, run_id, to_state, attempt, actor)
    select n.tenant_id, n.id, n.state, n.attempt, session_user
    from new_rows as n;
  else
    insert into app.job_run_events (tenant_id, run_id, from_state, to_state, attempt, actor, reason)
    select n.tenant_id, n.id, o.state, n.state, n.attempt, coalesce(n.worker, session_user),
           case when n.state in ('FAILED', 'DEAD_LETTER', 'PENDING') then n.error_code end
    from new_rows as n
    join old_rows as o on o.tenant_id = n.tenant_id and o.id = n.id
    where o.state <> n.state;
  end if;
  return null;
end
$$;

comment on function app_private.tg_job_runs__audit is
  'Writes every change of state to app.job_run_events, many rows at a time. The actor is the worker that claimed the '
  'run, else the login. A statement on a single partition, which nothing here makes, would not be seen.';

create or replace trigger _200_audit_insert
  after insert on app.job_runs
  referencing new table as new_rows
  for each statement execute function app_private.tg_job_runs__audit();

create or replace trigger _210_audit_update
  after update on app.job_runs
  referencing old table as old_rows new table as new_rows
  for each statement execute function app_private.tg_job_runs__audit();
--! EndIncluded app_private/tg_job_runs__audit.sql
--! Included app_private/tokens_wanted.sql
set local role holdfast_system;

create or replace function app_private.tokens_wanted(run_ids uuid[], tenant_ids uuid[])
returns table (tenant_id uuid, run_id uuid, attempt integer, available_at timestamptz, priority smallint)
language plpgsql
stable
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
begin
  return query
  select r.tenant_id, r.id, r.attempt, r.available_at, r.priority
  from unnest(run_ids, tenant_ids) as w (run_id, tenant_id)
  join app.job_runs as r on r.tenant_id = w.tenant_id and r.id = w.run_id;
end
$$;

comment on function app_private.tokens_wanted is
  'What the tokens of these runs must say, among all tenants.';

grant execute on function app_private.tokens_wanted to holdfast_owner;

set local role holdfast_owner;
--! EndIncluded app_private/tokens_wanted.sql
--! Included app_private/tokens_add.sql
create or replace function app_private.tokens_add(run_ids uuid[], tenant_ids uuid[]) returns integer
language plpgsql
security definer  -- the queue belongs to the owner
set search_path = ''
as $$
declare
  v_queued integer;
begin
  select count(*) into v_queued
  from graphile_worker.add_jobs(array(
    select (
      'run',
      pg_catalog.json_build_object('tenant_id', t.tenant_id, 'run_id', t.run_id),
      null, t.available_at, 5, 'run:' || t.run_id || ':' || t.attempt, t.priority,
      null)::graphile_worker.job_spec
    from app_private.tokens_wanted(run_ids, tenant_ids) as t
    order by t.run_id));

  assert v_queued = pg_catalog.cardinality(run_ids), 'every run gets its token';
  return v_queued;
end
$$;

comment on function app_private.tokens_add is
  'Queues the token of each run, in the transaction that made the run due; the same token again replaces itself.';

grant execute on function app_private.tokens_add to holdfast_system;
--! EndIncluded app_private/tokens_add.sql
--! Included app_private/slot_of.sql
create or replace function app_private.slot_of(at timestamptz, every interval, shard smallint)
returns table (slot bigint, next_run_at timestamptz)
language sql
stable
set search_path = ''
as $$
  -- Shard k is due k/16 of a period after its start, so that all tenants of a tier are never due at once.
  select s.slot, pg_catalog.to_timestamp((s.slot + 1) * p.seconds + p.phase)
  from (select extract(epoch from every) as seconds, shard * extract(epoch from every) / 16 as phase) as p
  cross join lateral (select floor((extract(epoch from at) - p.phase) / p.seconds)::bigint as slot) as s
$$;

comment on function app_private.slot_of is
  'Which turn of a shard a moment belongs to, and the moment of the next one: always the first boundary after now, so '
  'that missed turns are taken once.';

grant execute on function app_private.slot_of to holdfast_system;
--! EndIncluded app_private/slot_of.sql
--! Included app/schedules.sql
create table if not exists app.schedules (
  tier        text        not null,
  shard       smallint    not null,
  next_run_at timestamptz not null default now(),
  last_slot   bigint,

  constraint schedules_pkey primary key (tier, shard),
  constraint schedules_tier_fkey foreign key (tier) references app.tiers (tier) on delete restrict,
  constraint schedules_shard_known check (shard between 0 and 15)
);

create index if not exists schedules_next_run_at_idx on app.schedules (next_run_at);

comment on table app.schedules is
  'When each tier and shard is due. One row stands for all its tenants, so that a tick locks few rows.';
comment on column app.schedules.tier is 'The cohort; app.tiers says how often.';
comment on column app.schedules.shard is
  '0 to 15; shards of a tier are due one after the other, a sixteenth of its period apart.';
comment on column app.schedules.next_run_at is 'Due from this moment on.';
comment on column app.schedules.last_slot is 'The last turn that was taken; null before the first.';

insert into app.schedules (tier, shard)
select t.tier, s.shard from app.tiers as t cross join generate_series(0, 15) as s (shard)
on conflict on constraint schedules_pkey do nothing;

grant select, update on app.schedules to holdfast_system;
--! EndIncluded app/schedules.sql
--! Included app/schedule_tick.sql
set local role holdfast_system;

create or replace function app.schedule_tick(max_shards integer default 16)
returns table (runs integer, shards integer)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_run_ids    uuid[];
  v_tenant_ids uuid[];
begin
  -- Locks come in one order, and what another tick holds is skipped: any number of callers, no deadlock, no duplicate.
  with due as materialized (
    select s.tier, s.shard, n.slot, n.next_run_at, t.rank
    from app.schedules as s
    join app.tiers as t on t.tier = s.tier
    cross join lateral app_private.slot_of(pg_catalog.clock_timestamp(), t.every, s.shard) as n
    where s.next_run_at <= pg_catalog.clock_timestamp()
    order by s.next_run_at, s.tier, s.shard
    limit max_shards
    for no key update of s skip locked
  ),
  advanced as (
    update app.schedules as s
    set next_run_at = d.next_run_at, last_slot = d.slot
    from due as d
    where s.tier = d.tier and s.shard = d.shard
    returning s.tier
  ),
  taken as (
    insert into app.job_slots (tenant_id, kind, slot, run_id)
    select t.tenant_id, 'analysis', d.slot, app_private.uuid_v7()
    from due as d
    join app.tenants as t on t.tier = d.tier and t.shard = d.shard and t.status = 'ACTIVE'
    where not exists (
      select from app.job_runs as r
      where r.tenant_id = t.tenant_id and r.kind = 'analysis' and r.state in ('PENDING', 'RUNNING', 'FAILED'))
    order by t.tenant_id
    on conflict on constraint job_slots_pkey do nothing
    returning tenant_id, slot, run_id
  ),
  made as (
    insert into app.job_runs (tenant_id, id, kind, slot, priority)
    select k.tenant_id, k.run_id, 'analysis', k.slot, x.rank
    from taken as k
    join app.tenants as t on t.tenant_id = k.tenant_id
    join app.tiers as x on x.tier = t.tier
    returning id, tenant_id
  )
  select array_agg(m.id), array_agg(m.tenant_id), (select count(*) from advanced)
  into v_run_ids, v_tenant_ids, shards
  from made as m;

  runs := coalesce(pg_catalog.cardinality(v_run_ids), 0);
  if runs > 0 then
    perform app_private.tokens_add(v_run_ids, v_tenant_ids);
  end if;
  return next;
end
$$;

comment on function app.schedule_tick is
  'Makes the runs that are due, among all tenants, with their tokens, in one transaction; any number may call it at '
  'once. A tenant whose last run has not ended is passed over. Answers how many runs and shards.';

grant execute on function app.schedule_tick to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/schedule_tick.sql
--! Included app_private/job_fenced.sql
create or replace function app_private.job_fenced(tenant_id uuid, run_id uuid, attempt integer) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_run app.job_runs;
begin
  select r.* into v_run from app.job_runs as r where r.tenant_id = job_fenced.tenant_id and r.id = run_id;
  if not found then
    raise exception using
      errcode = 'JB101',
      message = 'job_run_not_found',
      hint    = 'Use the id of a run of this tenant; ops.runs lists them.';
  end if;
  raise exception using
    errcode = 'JB201',
    message = 'job_run_fenced',
    detail  = pg_catalog.jsonb_build_object('run_id', run_id, 'attempt', attempt,
                'state', v_run.state, 'now_at', v_run.attempt),
    hint    = 'Another attempt took over, or the run has ended. Drop what this one did.';
end
$$;

comment on function app_private.job_fenced is
  'Raises JB201 for an attempt that no longer runs, JB101 for a run that is not there.';
--! EndIncluded app_private/job_fenced.sql
--! Included app_private/job_running.sql
create or replace function app_private.job_running(tenant_id uuid, run_id uuid, attempt integer) returns void
language plpgsql
set search_path = ''
as $$
begin
  if not exists (
    select from app.job_runs as r
    where r.tenant_id = job_running.tenant_id
      and r.id = run_id
      and r.attempt = job_running.attempt
      and r.state = 'RUNNING')
  then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;
end
$$;

comment on function app_private.job_running is
  'Passes while this attempt of the run is the one that runs. Raises JB101, JB201.';
--! EndIncluded app_private/job_running.sql
--! Included app_private/job_backoff.sql
create or replace function app_private.job_backoff(failure_count integer, base_ms integer, cap_ms integer)
returns interval
language sql
volatile
set search_path = ''
as $$
  -- The exponent is bounded before it is used: 2^n of a long-failing run would overflow.
  select least(cap_ms, base_ms * 2.0 ^ least(failure_count - 1, 30))
    * (0.5 + pg_catalog.random()) * interval '1 millisecond'
$$;

comment on function app_private.job_backoff is
  'The wait before a run is tried again: base x 2^(failures - 1), at most cap, times 0.5 to 1.5 so that runs that '
  'failed together do not come back together.';

grant execute on function app_private.job_backoff to holdfast_system;
--! EndIncluded app_private/job_backoff.sql
--! Included app_private/job_run_key_take.sql
create or replace function app_private.job_run_key_take(
  tenant_id uuid, idempotency_key text, run_id uuid, fingerprint text) returns uuid
language plpgsql
set search_path = ''
as $$
declare
  v_key app.job_run_keys;
begin
  if idempotency_key is null then
    return null;
  end if;
  if pg_catalog.length(idempotency_key) not between 1 and 255 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', 'idempotency_key'),
      hint    = 'An idempotency key has 1 to 255 characters.';
  end if;

  insert into app.job_run_keys as k (tenant_id, idempotency_key, fingerprint, run_id)
  values (job_run_key_take.tenant_id, job_run_key_take.idempotency_key,
          pg_catalog.md5(job_run_key_take.fingerprint), job_run_key_take.run_id)
  on conflict on constraint job_run_keys_pkey do nothing;
  if found then
    return null;
  end if;

  select k.* into v_key
  from app.job_run_keys as k
  where k.tenant_id = job_run_key_take.tenant_id and k.idempotency_key = job_run_key_take.idempotency_key;
  if v_key.fingerprint <> pg_catalog.md5(fingerprint) then
    raise exception using
      errcode = 'LB103',
      message = 'idempotency_conflict',
      hint    = 'The key was used for another request. Use a new key for a new request.';
  end if;
  return v_key.run_id;
end
$$;

comment on function app_private.job_run_key_take is
  'Takes an idempotency key for a run: null when it is new (or none was given), the earlier run when it is not. Raises '
  'LB103 when it was taken for another request, OP102.';
--! EndIncluded app_private/job_run_key_take.sql
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
end
$$;

comment on function app.job_claim is
  'Starts the next attempt of a run, with a lease of 20 s that job_heartbeat extends. No row: the token is stale (the '
  'run is taken, ended, or not due), and there is nothing to do.';

grant execute on function app.job_claim to holdfast_worker;
--! EndIncluded app/job_claim.sql
--! Included app/job_heartbeat.sql
create or replace function app.job_heartbeat(tenant_id uuid, ticket text, run_id uuid, attempt integer)
returns timestamptz
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_lease timestamptz;
begin
  perform app.enter(tenant_id, ticket);

  -- A worker that beats for ever holds no run for ever: the lease ends with the time that its kind has.
  update app.job_runs as r
  set lease_until = least(pg_catalog.clock_timestamp() + interval '20 seconds',
                          r.started_at + pg_catalog.make_interval(secs => k.timeout_seconds + 20))
  from app.job_kinds as k
  where r.tenant_id = job_heartbeat.tenant_id
    and r.id = run_id
    and r.attempt = job_heartbeat.attempt
    and r.state = 'RUNNING'
    and k.kind = r.kind
  returning r.lease_until into v_lease;
  if not found then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;

  return v_lease;
end
$$;

comment on function app.job_heartbeat is
  'Extends the lease of an attempt to 20 s from now, within the time of its kind. Raises JB101, JB201.';

grant execute on function app.job_heartbeat to holdfast_worker;
--! EndIncluded app/job_heartbeat.sql
--! Included app/job_fail.sql
create or replace function app.job_fail(
  tenant_id uuid, ticket text, run_id uuid, attempt integer, error_code text, error text)
returns table (state text, available_at timestamptz)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_now timestamptz := pg_catalog.clock_timestamp();
begin
  perform app.enter(tenant_id, ticket);
  if coalesce(pg_catalog.length(error_code), 0) not between 1 and 100 then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', 'error_code'),
      hint    = 'A failure has a name of 1 to 100 characters: people and metrics look for it.';
  end if;

  update app.job_runs as r
  set state = v.state,
      failure_count = r.failure_count + (v.state <> 'PENDING')::integer,
      error_code = job_fail.error_code,
      error = pg_catalog.left(job_fail.error, 2000),
      lease_until = null,
      available_at = v_now + case
        when v.state = 'PENDING' then interval '0'
        else app_private.job_backoff(r.failure_count + 1, k.backoff_base_ms, k.backoff_cap_ms) end,
      token_at = v_now,
      finished_at = case when v.state = 'DEAD_LETTER' then v_now end
  from app.job_runs as x
  join app.job_kinds as k on k.kind = x.kind
  cross join lateral (select case
    when job_fail.error_code = 'shutdown' then 'PENDING'
    when x.failure_count >= k.max_retries or job_fail.error_code = any (k.non_retryable_codes)
      or job_fail.error_code ~ '^sqlstate_(22|23|42)'  -- the same data would fail again
    then 'DEAD_LETTER'
    else 'FAILED' end as state) as v
  where x.tenant_id = job_fail.tenant_id
    and x.id = run_id
    and r.tenant_id = x.tenant_id
    and r.id = x.id
    and r.attempt = job_fail.attempt
    and r.state = 'RUNNING'
  returning r.state, r.available_at into state, available_at;
  if not found then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;

  if state = 'DEAD_LETTER' then
    perform app_private.event_add(tenant_id, 'run.dead_letter', run_id,
      pg_catalog.jsonb_build_object('error_code', error_code));
  else
    perform app_private.tokens_add(array[run_id], array[tenant_id]);
  end if;
  return next;
end
$$;

comment on function app.job_fail is
  'Ends an attempt that failed: FAILED, with its next token after a wait that doubles, or DEAD_LETTER when '
  'its retries are used up or the code is not one to retry. The code shutdown is no failure: its worker was '
  'stopped, and the run is PENDING again, with a token at once. Raises JB101, JB201, OP102.';

grant execute on function app.job_fail to holdfast_worker;
--! EndIncluded app/job_fail.sql
--! Included app/job_reap.sql
set local role holdfast_system;

create or replace function app.job_reap(max_rows integer default 500)
returns table (tenant_id uuid, run_id uuid, state text, error_code text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_reaped     app.job_runs[];
  v_run_ids    uuid[];
  v_tenant_ids uuid[];
begin
  with lost as materialized (
    select r.tenant_id, r.id, r.attempt
    from app.job_runs as r
    where r.state = 'RUNNING' and r.lease_until < pg_catalog.clock_timestamp()
    order by r.lease_until
    limit max_rows
    for no key update skip locked
  ),
  back as (
    update app.job_runs as r
    set state = case when r.crash_count >= 2 then 'DEAD_LETTER' else 'FAILED' end,
        crash_count = r.crash_count + 1,
        error_code = case when r.crash_count >= 2 then 'poison' else 'worker_lost' end,
        error = 'The worker stopped beating before the attempt ended.',
        worker = null,
        lease_until = null,
        available_at = pg_catalog.clock_timestamp(),
        token_at = pg_catalog.clock_timestamp(),
        finished_at = case when r.crash_count >= 2 then pg_catalog.clock_timestamp() end
    from lost as l
    where r.tenant_id = l.tenant_id and r.id = l.id and r.attempt = l.attempt
      and r.state = 'RUNNING' and r.lease_until < pg_catalog.clock_timestamp()
    returning r.tenant_id, r.id, r.state, r as run
  ),
  dead as (
    insert into app.events (tenant_id, type, subject_id, data)
    select b.tenant_id, 'run.dead_letter', b.id, '{"error_code": "poison"}'
    from back as b where b.state = 'DEAD_LETTER'
  )
  select array_agg(b.run),
         array_agg(b.id) filter (where b.state = 'FAILED'),
         array_agg(b.tenant_id) filter (where b.state = 'FAILED')
  into v_reaped, v_run_ids, v_tenant_ids
  from back as b;

  if v_run_ids is not null then
    perform app_private.tokens_add(v_run_ids, v_tenant_ids);
  end if;
  return query select b.tenant_id, b.id, b.state, b.error_code from unnest(v_reaped) as b;
end
$$;

comment on function app.job_reap is
  'Brings back the runs whose worker was lost, among all tenants: FAILED with a token at once, DEAD_LETTER '
  'after the third crash. Answers what became of each.';

grant execute on function app.job_reap to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/job_reap.sql
--! Included app/tokens_repair.sql
set local role holdfast_system;

create or replace function app.tokens_repair(max_rows integer default 500) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_run_ids    uuid[];
  v_tenant_ids uuid[];
begin
  with late as materialized (
    select r.tenant_id, r.id
    from app.job_runs as r
    join app.tenants as t on t.tenant_id = r.tenant_id and t.status = 'ACTIVE'
    where r.state in ('PENDING', 'FAILED')
      and r.available_at < pg_catalog.clock_timestamp() - interval '15 seconds'
      and r.token_at < pg_catalog.clock_timestamp() - interval '15 seconds'
    order by r.available_at
    limit max_rows
    for no key update of r skip locked
  ),
  marked as (
    update app.job_runs as r
    set token_at = pg_catalog.clock_timestamp()
    from late as l
    where r.tenant_id = l.tenant_id and r.id = l.id and r.state in ('PENDING', 'FAILED')
    returning r.tenant_id, r.id
  )
  select array_agg(m.id), array_agg(m.tenant_id) into v_run_ids, v_tenant_ids from marked as m;

  if v_run_ids is null then
    return 0;
  end if;
  return app_private.tokens_add(v_run_ids, v_tenant_ids);
end
$$;

comment on function app.tokens_repair is
  'Queues the token of every run that has waited 15 s since it was due, among all tenants. A token that is '
  'still queued replaces itself, so that losing one, or the whole queue, loses no run. Answers how many.';

grant execute on function app.tokens_repair to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
--! EndIncluded app/tokens_repair.sql

-- Detectors, findings and analyses.
--! Included app/analyses.sql
create table if not exists app.analyses (
  tenant_id       uuid        not null,
  id              uuid        not null,
  narrated_by     text        not null,
  fallback_reason text,
  provider        text,
  model           text,
  prompt_hash     text,
  summary         text,
  finding_count   integer     not null,
  created_at      timestamptz not null default now(),

  constraint analyses_pkey primary key (tenant_id, id),
  constraint analyses_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint analyses_narrated_by_known check (narrated_by in ('model', 'template')),
  constraint analyses_fallback_reason_iff_template
    check ((narrated_by = 'template') = (fallback_reason is not null)),
  constraint analyses_texts_bounded check (length(summary) <= 2000 and length(fallback_reason) <= 100)
);

comment on table app.analyses is
  'How each analysis was worded. An analysis is a run of the kind analysis, and has its id; '
  'a row is written when it completes.';
comment on column app.analyses.tenant_id is 'Whose costs were analysed.';
comment on column app.analyses.id is 'The analysis, which is its run.';
comment on column app.analyses.narrated_by is 'model, or template: SQL''s own words.';
comment on column app.analyses.fallback_reason is 'Why the template was used; null where a model worded it.';
comment on column app.analyses.provider is 'Who answered.';
comment on column app.analyses.model is 'The model that was asked.';
comment on column app.analyses.prompt_hash is 'SHA-256 of the prompt, in hex; the prompt itself is not kept.';
comment on column app.analyses.summary is 'What the model says of all findings together.';
comment on column app.analyses.finding_count is 'How many findings were open when it ended.';
comment on column app.analyses.created_at is 'When it completed.';

call app_private.isolate('app.analyses', for_system => true);
grant select on app.analyses to holdfast_tenant;
grant select on app.analyses to holdfast_system;
--! EndIncluded app/analyses.sql
--! Included app/findings.sql
create table if not exists app.findings (
  tenant_id        uuid        not null,
  id               uuid        not null default app_private.uuid_v7(),
  fingerprint      text        not null,
  detector         text        not null,
  detector_version integer     not null,
  scope            jsonb       not null,
  severity         text        not null,
  state            text        not null default 'open',
  currency         text        not null,
  monthly_saving   numeric,
  saving_basis     text,
  confidence       text        not null,
  rank             integer     not null default 0,
  evidence         jsonb       not null,
  slots            jsonb       not null,
  headline         text        not null,
  why              text        not null,
  caveats          text[]      not null default '{}',
  remediation_code text        not null,
  narrated_by      text        not null default 'template',
  run_id           uuid        not null,
  occurrences      integer     not null default 1,
  first_seen_at    timestamptz not null default now(),
  last_seen_at     timestamptz not null default now(),
  resolved_at      timestamptz,

  constraint findings_pkey primary key (tenant_id, id),
  constraint findings_fingerprint_once unique (tenant_id, fingerprint),
  constraint findings_tenant_id_fkey foreign key (tenant_id)
    references app.tenants (tenant_id) on delete restrict,
  constraint findings_severity_known check (severity in ('info', 'low', 'medium', 'high', 'critical')),
  constraint findings_state_known
    check (state in ('open', 'acknowledged', 'snoozed', 'dismissed', 'resolved')),
  constraint findings_resolved_at_iff_resolved check ((state = 'resolved') = (resolved_at is not null)),
  constraint findings_saving_positive_or_unknown check (monthly_saving > 0),
  constraint findings_saving_basis_iff_saving check (
    (monthly_saving is null) = (saving_basis is null) and saving_basis in ('measured', 'modelled')),
  constraint findings_confidence_known check (confidence in ('low', 'medium', 'high')),
  constraint findings_narrated_by_known check (narrated_by in ('model', 'template')),
  constraint findings_texts_bounded
    check (length(headline) between 1 and 200 and length(why) between 1 and 1000)
);

create index if not exists findings_state_rank_idx on app.findings (tenant_id, state, rank);

comment on table app.findings is
  'What the detectors found. The same finding seen again is the same row; every number in it is SQL''s.';
comment on column app.findings.tenant_id is 'Whose costs it is about.';
comment on column app.findings.id is 'The finding.';
comment on column app.findings.fingerprint is 'Detector and scope: stable from run to run.';
comment on column app.findings.detector is 'The SQL function app_private.detect_<detector> found it.';
comment on column app.findings.detector_version is 'Rises when the rule of the detector changes.';
comment on column app.findings.scope is 'Where: provider, sub-account, service, region, tag.';
comment on column app.findings.severity is 'info, low, medium, high or critical; from money and certainty.';
comment on column app.findings.state is
  'open, acknowledged, snoozed, dismissed, or resolved when the detector no longer sees it.';
comment on column app.findings.currency is 'The currency of every amount of this finding.';
comment on column app.findings.monthly_saving is
  'What a month of it costs too much, in currency; null where that is not known, never 0.';
comment on column app.findings.saving_basis is
  'measured from the bill, or modelled by an assumption that evidence names; null without a saving.';
comment on column app.findings.confidence is 'low where doubtful lines were summed.';
comment on column app.findings.rank is '1 is the first to look at.';
comment on column app.findings.evidence is 'The numbers behind it, and the query that gives them again.';
comment on column app.findings.slots is 'Texts for the {{slots}} of headline, why and caveats.';
comment on column app.findings.headline is 'One sentence; numbers only as {{slots}}.';
comment on column app.findings.why is 'Why it matters; numbers only as {{slots}}.';
comment on column app.findings.caveats is 'What may be wrong with it; numbers only as {{slots}}.';
comment on column app.findings.remediation_code is 'What to do, from a closed list.';
comment on column app.findings.narrated_by is 'model, or template: SQL''s own words.';
comment on column app.findings.run_id is 'The run that saw it last.';
comment on column app.findings.occurrences is 'How many runs saw it.';
comment on column app.findings.first_seen_at is 'When it was first found.';
comment on column app.findings.last_seen_at is 'When it was last found.';
comment on column app.findings.resolved_at is 'When the detector no longer saw it; null while it stands.';

call app_private.isolate('app.findings', for_system => true);
grant select on app.findings to holdfast_tenant;
grant select on app.findings to holdfast_system;
--! EndIncluded app/findings.sql
--! Included app_private/detected.sql
-- What a detector answers: one row a finding, worded by SQL, with {{slots}} for its numbers.
do $$
begin
  if pg_catalog.to_regtype('app_private.detected') is null then
    create type app_private.detected as (
      detector         text,
      detector_version integer,
      fingerprint      text,
      scope            jsonb,
      severity         text,
      currency         text,
      amount           numeric,
      monthly_saving   numeric,
      saving_basis     text,
      confidence       text,
      evidence         jsonb,
      slots            jsonb,
      headline         text,
      why              text,
      remediation_code text
    );
  end if;
end
$$;

comment on type app_private.detected is
  'A finding as a detector gives it; amount is the money it is about, which ranks findings that have no saving.';
--! EndIncluded app_private/detected.sql
--! Included app_private/money_text.sql
create or replace function app_private.money_text(amount numeric, currency text) returns text
language sql
immutable
parallel safe
return to_char(amount, 'FM999,999,999,999,990.00') || ' ' || currency;

comment on function app_private.money_text is 'An amount for a person: thousands, two decimals, currency.';

grant execute on function app_private.money_text to holdfast_system;
--! EndIncluded app_private/money_text.sql
--! Included app_private/text_safe.sql
create or replace function app_private.text_safe(value text) returns text
language sql
immutable
parallel safe
return left(regexp_replace(value, '[[:cntrl:]{};|]+', ' ', 'g'), 80);

comment on function app_private.text_safe is
  'A name from a bill, as the model may see it: no control character, brace or separator, at most 80 characters.';
--! EndIncluded app_private/text_safe.sql
--! Included app_private/render.sql
create or replace function app_private.render(template text, slots jsonb) returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
declare
  v_slot record;
  v_text text := template;
begin
  for v_slot in select s.key, s.value from pg_catalog.jsonb_each_text(slots) as s loop
    v_text := pg_catalog.replace(v_text, '{{' || v_slot.key || '}}', coalesce(v_slot.value, ''));
  end loop;
  return v_text;
end
$$;

comment on function app_private.render is
  'Puts the values of slots into {{name}} of a text. Rendered when it is read, so that corrected data correct the prose.';

grant execute on function app_private.render to holdfast_system, holdfast_ops;
--! EndIncluded app_private/render.sql
--! Included app_private/severity_of.sql
create or replace function app_private.severity_of(monthly_amount numeric) returns text
language sql
immutable
parallel safe
return case
  when monthly_amount >= 10000 then 'critical'
  when monthly_amount >= 2000 then 'high'
  when monthly_amount >= 300 then 'medium'
  when monthly_amount >= 30 then 'low'
  else 'info' end;

comment on function app_private.severity_of is
  'How bad an amount of money a month is: from 30 low, 300 medium, 2,000 high, 10,000 critical, in any currency.';
--! EndIncluded app_private/severity_of.sql
--! Included app_private/median_and_mad.sql
create or replace function app_private.median_and_mad(
  days date[], costs numeric[], from_day date, to_day date)
returns table (median numeric, mad numeric, points bigint)
language sql
immutable
parallel safe
set search_path = ''
as $$
  with window_costs as (
    select c.cost::double precision as cost
    from unnest(days, costs) as c (day, cost)
    where c.day between from_day and to_day
  ),
  middle as (
    select percentile_cont(0.5) within group (order by w.cost) as median, count(*) as points
    from window_costs as w
  )
  select m.median::numeric,
         (select percentile_cont(0.5) within group (order by abs(w.cost - m.median))
          from window_costs as w)::numeric,
         m.points
  from middle as m
$$;

comment on function app_private.median_and_mad is
  'Median and median absolute deviation of the costs between two days, and how many days there were.';
--! EndIncluded app_private/median_and_mad.sql
--! Included app_private/cost_anomaly_days.sql
create or replace function app_private.cost_anomaly_days(tenant_id uuid, scored_days integer default 30)
returns table (
  provider_name text, sub_account_id text, sub_account_name text, service_name text, region_id text,
  currency text, day date, cost numeric, baseline numeric, excess numeric, z numeric, doubtful boolean,
  last_data_day date)
language sql
stable
set search_path = ''
as $$
  with daily as materialized (
    -- A day that has not come is an error of the export; it must not move the days that are looked at.
    select d.provider_name, d.sub_account_id, max(d.sub_account_name) as sub_account_name, d.service_name,
           d.region_id, d.billing_currency, d.day, sum(d.effective_cost) as cost,
           sum(d.doubtful_count) > 0.05 * sum(d.line_count) as doubtful,
           dense_rank() over (order by d.provider_name, d.sub_account_id, d.service_name, d.region_id,
             d.billing_currency) as series_id,
           max(d.day) over (partition by d.provider_name) as last_day,
           max(d.day) over () as tenant_last_day
    from app.cost_daily_current as d
    where d.tenant_id = $1
      and d.charge_category = 'Usage'
      and not d.correction
      and d.day <= (now() at time zone 'UTC')::date
    group by d.provider_name, d.sub_account_id, d.service_name, d.region_id, d.billing_currency, d.day
  ),
  series as (
    select x.series_id, x.provider_name, x.sub_account_id, max(x.sub_account_name) as sub_account_name,
           x.service_name, x.region_id, x.billing_currency, min(x.day) as first_day,
           max(x.last_day) as last_day
    from daily as x
    -- A provider that bills no more has nothing new to say.
    where x.last_day > x.tenant_last_day - 30
    group by x.series_id, x.provider_name, x.sub_account_id, x.service_name, x.region_id, x.billing_currency
  ),
  dense as materialized (
    -- A day without a line cost nothing; it must not be missing from the baseline.
    select s.series_id, s.last_day, g.day::date as day, extract(isodow from g.day) >= 6 as weekend,
           coalesce(x.cost, 0) as cost, coalesce(x.doubtful, false) as doubtful
    from series as s
    cross join lateral generate_series(
      greatest(s.first_day, s.last_day - scored_days - 41)::timestamp, s.last_day::timestamp,
      interval '1 day') as g (day)
    left join daily as x on x.series_id = s.series_id and x.day = g.day::date
  ),
  costs as (
    select x.series_id, x.weekend, array_agg(x.day order by x.day) as days,
           array_agg(x.cost order by x.day) as costs
    from dense as x
    group by x.series_id, x.weekend
  ),
  scored as (
    select x.series_id, x.day, x.cost, x.doubtful, m.median, m.points,
           1.4826 * greatest(m.mad, 0.067 * m.median, 0.01) as spread
    from dense as x
    join costs as c on c.series_id = x.series_id and c.weekend = x.weekend
    cross join lateral app_private.median_and_mad(c.days, c.costs, x.day - 42, x.day - 1) as m
    where x.day > x.last_day - scored_days and x.cost >= 5
  )
  select s.provider_name, s.sub_account_id, s.sub_account_name, s.service_name, s.region_id,
         s.billing_currency, x.day, x.cost, x.median, x.cost - x.median, (x.cost - x.median) / x.spread,
         x.doubtful, s.last_day
  from scored as x
  join series as s on s.series_id = x.series_id
  where x.points >= 6
    and x.cost - x.median >= greatest(5, 0.25 * x.median)
    and x.cost - x.median >= 4 * x.spread
$$;

comment on function app_private.cost_anomaly_days is
  'Days of the last scored_days whose Usage cost stands out in its series (provider, sub-account, service, region, '
  'currency): robust z >= 4 against the same class of days (weekdays, weekends) of the 42 days before, where z = '
  '(cost - median) / (1.4826 x MAD) and the MAD is at least 6.7 percent of the median; and an excess of at least 5 '
  'units of money and 25 percent. The last day is that of the provider, for providers do not export at the same hour. '
  'Source of the rule: Leys et al. 2013 (median absolute deviation), with floors of our own.';
--! EndIncluded app_private/cost_anomaly_days.sql
--! Included app_private/cost_anomaly_slots.sql
create or replace function app_private.cost_anomaly_slots(
  service text, sub_account text, region text, currency text, first_day date, flagged_days bigint,
  excess numeric, baseline numeric, cost numeric, monthly_saving numeric) returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_strip_nulls(jsonb_build_object(
    'service', app_private.text_safe(coalesce(service, 'an unnamed service')),
    'sub_account', app_private.text_safe(coalesce(sub_account, 'no sub-account')),
    'region', app_private.text_safe(coalesce(region, 'no region')),
    'first_day', to_char(first_day, 'FMDD Mon YYYY'),
    'days', flagged_days || case when flagged_days = 1 then ' day' else ' days' end,
    'excess', app_private.money_text(excess, currency),
    'excess_per_day', app_private.money_text(excess / flagged_days, currency),
    'baseline', app_private.money_text(baseline, currency),
    'cost', app_private.money_text(cost, currency),
    'monthly_saving', app_private.money_text(monthly_saving, currency)))
$$;

comment on function app_private.cost_anomaly_slots is 'The texts that a cost anomaly may be worded with.';
--! EndIncluded app_private/cost_anomaly_slots.sql
--! Included app_private/detect_cost_anomaly.sql
create or replace function app_private.detect_cost_anomaly(tenant_id uuid) returns setof app_private.detected
language sql
stable
set search_path = ''
as $$
  with days as (
    -- Twice the days that are reported: the first day of an anomaly, which names it, must not leave the window.
    select * from app_private.cost_anomaly_days($1, scored_days => 60)
  ),
  numbered as (
    -- Days that are flagged one after the other, with gaps of at most two, are one anomaly.
    select d.*, sum((d.day - d.day_before > 3)::integer) over series as island
    from (select f.*, lag(f.day, 1, f.day - 9) over (
            partition by f.provider_name, f.sub_account_id, f.service_name, f.region_id, f.currency
            order by f.day) as day_before
          from days as f) as d
    window series as (
      partition by d.provider_name, d.sub_account_id, d.service_name, d.region_id, d.currency order by d.day)
  ),
  islands as (
    select n.provider_name, n.sub_account_id, max(n.sub_account_name) as sub_account_name, n.service_name,
           n.region_id, n.currency, min(n.day) as first_day, max(n.day) as last_day, count(*) as flagged_days,
           sum(n.excess) as excess, avg(n.excess) as excess_per_day, avg(n.baseline) as baseline,
           avg(n.cost) as cost,
           max(n.z) as z, bool_or(n.doubtful) as doubtful, max(n.last_data_day) as last_data_day,
           count(*) >= 3 and max(n.day) >= max(n.last_data_day) - 1 as running
    from numbered as n
    group by n.provider_name, n.sub_account_id, n.service_name, n.region_id, n.currency, n.island
    having max(n.day) > max(n.last_data_day) - 30
  )
  select 'cost_anomaly', 1,
         'cost_anomaly:' || md5(jsonb_build_array(i.provider_name, i.sub_account_id, i.service_name, i.region_id,
           i.currency, i.first_day)::text),
         jsonb_strip_nulls(jsonb_build_object('provider', i.provider_name, 'sub_account', i.sub_account_id,
           'sub_account_name', i.sub_account_name, 'service', i.service_name, 'region', i.region_id)),
         app_private.severity_of(case when i.running then i.excess_per_day * 30.4375 else i.excess end),
         i.currency, i.excess,
         case when i.running then round(i.excess_per_day * 30.4375, 2) end,
         case when i.running then 'modelled' end,
         case when i.doubtful then 'low' when i.z >= 8 then 'high' else 'medium' end,
         jsonb_build_object('first_day', i.first_day, 'last_day', i.last_day, 'flagged_days', i.flagged_days,
           'running', i.running, 'baseline_per_day', round(i.baseline, 4), 'cost_per_day', round(i.cost, 4),
           'excess', round(i.excess, 4), 'z', round(i.z, 1), 'until', i.last_data_day,
           'assumption',
           case when i.running then 'The saving assumes that the cost per day returns to its baseline.' end,
           'query', format('select day, sum(effective_cost) from ops.cost_daily where category = ''Usage'' '
             'and not correction and (provider, sub_account, service, region, cur) is not distinct from '
             '(%L, %L, %L, %L, %L) group by day order by day', i.provider_name, i.sub_account_id,
             i.service_name, i.region_id, i.currency)),
         app_private.cost_anomaly_slots(i.service_name, coalesce(i.sub_account_name, i.sub_account_id),
           i.region_id, i.currency, i.first_day, i.flagged_days, i.excess, i.baseline, i.cost,
           case when i.running then round(i.excess_per_day * 30.4375, 2) end),
         case when i.running then '{{service}} has cost {{excess_per_day}} a day too much since {{first_day}}'
              else '{{service}} cost {{excess}} more than usual around {{first_day}}' end,
         case when i.running then
           'In {{sub_account}}, {{region}}, it costs {{cost}} a day where {{baseline}} was usual; it has not gone back. '
             || 'A month of it is {{monthly_saving}}.'
         else
           'In {{sub_account}}, {{region}}, it cost {{cost}} a day where {{baseline}} was usual, on {{days}}.' end,
         case when i.running then 'investigate_running_increase' else 'explain_spike' end
  from islands as i
$$;

comment on function app_private.detect_cost_anomaly is
  'Runs of days that cost more than the days like them before (app_private.cost_anomaly_days), one finding for each that '
  'reaches into the last 30 days of its provider''s data. One that lasts three days and still stands has a modelled saving: its excess per day x 30.4375. '
  'A spike that is over has none.';
--! EndIncluded app_private/detect_cost_anomaly.sql
--! Included app_private/detect_untagged_spend.sql
create or replace function app_private.detect_untagged_spend(tenant_id uuid)
returns setof app_private.detected
language sql
stable
set search_path = ''
set timezone = 'UTC'
as $$
  with latest as (
    -- A day that has not come is an error of the export.
    select max(d.day) as day
    from app.cost_daily_current as d
    where d.tenant_id = $1 and d.charge_category = 'Usage' and d.day <= (now() at time zone 'UTC')::date
  ),
  lines as materialized (
    select l.billing_currency, l.effective_cost, l.tags, l.service_name, l.sub_account_name,
           l.dq_flags && app_private.doubtful_flags() as doubtful
    from app.cost_lines_current as l
    cross join latest as x
    where l.tenant_id = $1
      and l.charge_category = 'Usage'
      and l.charge_class is null
      and l.charge_period_start >= (x.day - 29)::timestamptz
      and l.charge_period_start < (x.day + 1)::timestamptz
  ),
  keys as (
    select distinct k.tag_key
    from app.tenants as t cross join lateral unnest(t.required_tags) as k (tag_key)
    where t.tenant_id = $1
  ),
  sums as (
    select k.tag_key, l.billing_currency as currency,
           sum(l.effective_cost) as total,
           coalesce(sum(l.effective_cost)
             filter (where coalesce(l.tags ->> k.tag_key, '') = ''), 0) as untagged,
           count(*) filter (where coalesce(l.tags ->> k.tag_key, '') = '') as untagged_lines,
           coalesce(avg(l.doubtful::integer), 0) as doubtful,
           mode() within group (order by l.service_name)
             filter (where coalesce(l.tags ->> k.tag_key, '') = '') as top_service
    from keys as k
    cross join lines as l
    group by k.tag_key, l.billing_currency
  )
  select 'untagged_spend', 1,
         'untagged_spend:' || md5(jsonb_build_array(s.tag_key, s.currency)::text),
         jsonb_build_object('tag', s.tag_key, 'currency', s.currency),
         -- Governance, not waste: one step less severe than the same money lost.
         app_private.severity_of(s.untagged / 10), s.currency, s.untagged, null::numeric, null::text,
         case when s.doubtful > 0.05 then 'low' else 'high' end,
         jsonb_build_object('days', 30, 'until', x.day, 'effective_cost', s.total,
           'untagged_cost', s.untagged,
           'untagged_lines', s.untagged_lines, 'coverage', round(1 - s.untagged / s.total, 4),
           'lines', 'Usage without corrections of the window, the tag absent or empty'),
         jsonb_build_object('tag', app_private.text_safe(s.tag_key),
           'untagged', app_private.money_text(s.untagged, s.currency),
           'total', app_private.money_text(s.total, s.currency),
           'untagged_share', round(100 * s.untagged / s.total) || ' %',
           'service', app_private.text_safe(coalesce(s.top_service, 'no service')), 'window', '30 days to ' || to_char(x.day, 'FMDD Mon YYYY')),
         '{{untagged}} of spend has no tag "{{tag}}"',
         '{{untagged_share}} of {{total}} in the {{window}} cannot be charged to anyone by "{{tag}}"; '
           || 'most often it is {{service}}.',
         'tag_resources'
  from sums as s
  cross join latest as x
  where s.total > 0 and s.untagged >= 5 and s.untagged >= 0.05 * s.total
$$;

comment on function app_private.detect_untagged_spend is
  'Usage of the last 30 days of data that lacks a required tag (app.tenants.required_tags), by tag and currency, from '
  '5 units of money and 5 percent on. No saving: it is governance. '
  'Corrections, purchases, tax and credits do not count.';
--! EndIncluded app_private/detect_untagged_spend.sql
--! Included app_private/findings_save.sql
create or replace function app_private.findings_save(
  tenant_id uuid, run_id uuid, detected app_private.detected[])
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_count integer;
begin
  -- What is there is locked in one order first: two runs of a tenant may order the same findings differently.
  perform from app.findings as f where f.tenant_id = findings_save.tenant_id order by f.id for no key update;

  insert into app.findings as f (tenant_id, run_id, fingerprint, detector, detector_version, scope, severity,
    currency, monthly_saving, saving_basis, confidence, rank, evidence, slots, headline, why,
    remediation_code)
  select findings_save.tenant_id, findings_save.run_id, d.fingerprint, d.detector, d.detector_version,
         d.scope, d.severity, d.currency, nullif(greatest(d.monthly_saving, 0), 0),
         case when d.monthly_saving > 0 then d.saving_basis end, d.confidence,
         row_number() over (order by d.monthly_saving desc nulls last, d.amount desc, d.fingerprint),
         jsonb_strip_nulls(d.evidence), d.slots, d.headline, d.why, d.remediation_code
  from unnest(detected) as d
  order by d.fingerprint
  on conflict on constraint findings_fingerprint_once do update
  set run_id = excluded.run_id,
      detector_version = excluded.detector_version,
      scope = excluded.scope,
      severity = excluded.severity,
      monthly_saving = excluded.monthly_saving,
      saving_basis = excluded.saving_basis,
      confidence = excluded.confidence,
      rank = excluded.rank,
      evidence = excluded.evidence,
      slots = excluded.slots,
      headline = excluded.headline,
      why = excluded.why,
      caveats = '{}',
      remediation_code = excluded.remediation_code,
      narrated_by = 'template',
      -- An attempt that is tried again sees the same finding, not another occurrence.
      occurrences = f.occurrences + (f.run_id <> excluded.run_id)::integer,
      last_seen_at = now(),
      state = case when f.state = 'resolved' then 'open' else f.state end,
      resolved_at = null;
  get diagnostics v_count = row_count;

  update app.findings as f
  set state = 'resolved', resolved_at = now()
  where f.tenant_id = findings_save.tenant_id
    and f.state in ('open', 'acknowledged')
    and f.run_id <> findings_save.run_id;

  return v_count;
end
$$;

comment on function app_private.findings_save is
  'Keeps what the detectors of one run found: the same fingerprint is the same finding, and an open one that was not '
  'seen is resolved. What people dismissed stays dismissed. Ranks by saving, then by the money it is about.';
--! EndIncluded app_private/findings_save.sql
--! Included app_private/says_numbers.sql
create or replace function app_private.says_numbers(said text, slots jsonb) returns boolean
language sql
immutable
parallel safe
set search_path = ''
as $$
  -- Slots go in one pass, so that taking one out cannot make another. Raised, wide and broken digits become plain ones.
  select pg_catalog.regexp_replace(normalize(said, nfkc), '\{\{[a-z0-9_]+\}\}', '', 'g')
      ~ '[0-9٠-٩۰-۹०-९{}]'
    or exists (
      select from pg_catalog.regexp_matches(said, '\{\{([a-z0-9_]+)\}\}', 'g') as m (slot)
      where not slots ? m.slot[1])
$$;

comment on function app_private.says_numbers is
  'Whether a text holds a digit of its own, a brace, or a {{slot}} that is not among the slots: SQL fills in every number.';
--! EndIncluded app_private/says_numbers.sql
--! Included app_private/narration_refuse.sql
create or replace function app_private.narration_refuse(reason text) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'NA102',
    message = 'analysis_invalid',
    detail  = pg_catalog.jsonb_build_object('reason', reason),
    hint    =
      'Items name findings of the tenant, at most 200 and 1,000 characters, and numbers only as {{slots}}.';
end
$$;

comment on function app_private.narration_refuse is
  'Raises NA102: the wording of an analysis is not one that SQL accepts.';
--! EndIncluded app_private/narration_refuse.sql
--! Included app_private/narration_check.sql
create or replace function app_private.narration_check(tenant_id uuid, run_id uuid, result jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_items constant jsonb := coalesce(result -> 'items', '[]');
  v_bad   text := case
    when coalesce(result ->> 'narrated_by', '') not in ('model', 'template') then 'narrated_by'
    when result ->> 'narrated_by' = 'template' and v_items <> '[]' then 'items_of_the_template'
    when app_private.says_numbers(result ->> 'summary', '{}') then 'number_in_summary' end;
begin
  if v_bad is null then
    select x.fault into v_bad
    from jsonb_to_recordset(v_items) as i (
      finding_id uuid, rank integer, headline text, why text, caveats text[], remediation_code text)
    left join app.findings as f on f.tenant_id = narration_check.tenant_id and f.id = i.finding_id
    cross join lateral (select case
      when f.id is null then 'unknown_finding'
      when coalesce(i.rank, 0) < 1 then 'rank'
      -- A later run has found it again: analysis_apply drops these words, whatever they are.
      when f.run_id <> narration_check.run_id then null
      when coalesce(i.remediation_code, '') not in (f.remediation_code, 'no_action') then 'remediation'
      when coalesce(length(i.headline), 0) not between 1 and 200
        or coalesce(length(i.why), 0) not between 1 and 1000
        or cardinality(i.caveats) > 10
        or exists (select from unnest(i.caveats) as c (caveat)
                   where coalesce(length(c.caveat), 0) not between 1 and 500) then 'length'
      when app_private.says_numbers(
          concat_ws(' ', i.headline, i.why, array_to_string(i.caveats, ' ')), f.slots)
        then 'number_or_unknown_slot' end as fault) as x
    where x.fault is not null
    limit 1;
  end if;
  if v_bad is null and exists (
    select from jsonb_to_recordset(v_items) as i (finding_id uuid) group by i.finding_id having count(*) > 1)
  then
    v_bad := 'finding_twice';
  end if;

  if v_bad is not null then
    perform app_private.narration_refuse(v_bad);
  end if;
end
$$;

comment on function app_private.narration_check is
  'Raises NA102 unless the result words each finding of this run once at most, with a known remediation and no number of '
  'its own. The shell has checked the answer of the model; this is the constraint behind it.';
--! EndIncluded app_private/narration_check.sql
--! Included app_private/analysis_apply.sql
create or replace function app_private.analysis_apply(tenant_id uuid, run_id uuid, result jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_items constant jsonb := coalesce(result -> 'items', '[]');
begin
  perform app_private.narration_check(tenant_id, run_id, result);

  -- In one order, as findings_save does: two runs of a tenant may end at once.
  perform from app.findings as f where f.tenant_id = analysis_apply.tenant_id order by f.id for no key update;
  update app.findings as f
  set headline = i.headline,
      why = i.why,
      caveats = coalesce(i.caveats, '{}'),
      remediation_code = i.remediation_code,
      narrated_by = 'model'
  from jsonb_to_recordset(v_items) as i (
    finding_id uuid, headline text, why text, caveats text[], remediation_code text)
  where f.tenant_id = analysis_apply.tenant_id and f.id = i.finding_id and f.run_id = analysis_apply.run_id;

  -- What the model ordered comes first; what it left out keeps its order behind.
  update app.findings as f
  set rank = o.rank
  from (
    select x.id, row_number() over (order by i.rank nulls last, x.rank, x.id) as rank
    from app.findings as x
    left join jsonb_to_recordset(v_items) as i (finding_id uuid, rank integer) on i.finding_id = x.id
    where x.tenant_id = analysis_apply.tenant_id and x.run_id = analysis_apply.run_id) as o
  where f.tenant_id = analysis_apply.tenant_id and f.id = o.id and f.rank <> o.rank;

  insert into app.analyses (tenant_id, id, narrated_by, fallback_reason, provider, model, prompt_hash,
    summary, finding_count)
  select analysis_apply.tenant_id, analysis_apply.run_id, result ->> 'narrated_by',
         result ->> 'fallback_reason', result ->> 'provider', result ->> 'model', result ->> 'prompt_hash',
         left(result ->> 'summary', 2000), count(*)
  from app.findings as f
  where f.tenant_id = analysis_apply.tenant_id and f.state in ('open', 'acknowledged');

  perform app_private.event_add(tenant_id, 'analysis.completed', run_id, jsonb_strip_nulls(jsonb_build_object(
    'narrated_by', result ->> 'narrated_by', 'fallback_reason', result ->> 'fallback_reason')));
end
$$;

comment on function app_private.analysis_apply is
  'Keeps how an analysis was worded. A result without items leaves the words of SQL. Raises NA102.';
--! EndIncluded app_private/analysis_apply.sql
--! Included app_private/analysis_status.sql
create or replace function app_private.analysis_status(run_state text) returns text
language sql
immutable
parallel safe
return case run_state when 'FAILED' then 'PENDING' when 'DEAD_LETTER' then 'FAILED' else run_state end;

comment on function app_private.analysis_status is
  'What the state of a run means for who asked: a run that is tried again is PENDING, a dead letter is FAILED.';

grant execute on function app_private.analysis_status to holdfast_system;
--! EndIncluded app_private/analysis_status.sql
--! Included app_private/job_apply.sql
create or replace function app_private.job_apply(tenant_id uuid, run_id uuid, kind text, result jsonb)
returns void
language plpgsql
set search_path = ''
as $$
begin
  -- What a kind of job writes as its last act, in the transaction that completes the run.
  if kind = 'analysis' then
    perform app_private.analysis_apply(tenant_id, run_id, result);
  end if;
end
$$;

comment on function app_private.job_apply is 'Applies the result of a run, by its kind; called by job_complete alone.';
--! EndIncluded app_private/job_apply.sql
--! Included app/analysis_request.sql
create or replace function app.analysis_request(
  tenant_id uuid, ticket text, provider text, model text, input_tokens_bound bigint, max_output_tokens bigint,
  idempotency_key text default null)
returns table (id uuid, run_id uuid, status text, created_at timestamptz, replayed boolean)
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_run_id constant uuid := app_private.uuid_v7();
  v_known  uuid;
begin
  perform app.enter(tenant_id, ticket);

  v_known := app_private.job_run_key_take(tenant_id, idempotency_key, v_run_id,
    pg_catalog.jsonb_build_array('analysis')::text);
  if v_known is null then
    perform app_private.llm_headroom_check(tenant_id, provider, model, input_tokens_bound, max_output_tokens);

    insert into app.job_runs (tenant_id, id, kind) values (analysis_request.tenant_id, v_run_id, 'analysis');
    perform app_private.tokens_add(array[v_run_id], array[analysis_request.tenant_id]);
  end if;

  return query
  select r.id, r.id, app_private.analysis_status(r.state), r.created_at, v_known is not null
  from app.job_runs as r
  where r.tenant_id = analysis_request.tenant_id and r.id = coalesce(v_known, v_run_id);
end
$$;

comment on function app.analysis_request is
  'Asks for an analysis now. Refuses at once, before a run exists, when the budget cannot hold the most that its call '
  'may cost. The same key answers the first analysis again, replayed. Raises LB101, LB102, LB103, LB105.';

grant execute on function app.analysis_request to holdfast_service, holdfast_worker;
--! EndIncluded app/analysis_request.sql
--! Included app/analysis_detect.sql
create or replace function app.analysis_detect(tenant_id uuid, ticket text, run_id uuid, attempt integer)
returns table (
  candidate_id text, finding_id uuid, detector text, severity text, currency text, facts text,
  slots text[], remediation_codes text[])
language plpgsql
security definer  -- the shell may not write findings
set search_path = ''
as $$
declare
  v_detected app_private.detected[];
begin
  perform app.enter(tenant_id, ticket);
  perform app_private.job_running(tenant_id, run_id, attempt);

  select array_agg(row(d.*)::app_private.detected) into v_detected
  from (
    select * from app_private.detect_untagged_spend(analysis_detect.tenant_id)
    union all
    select * from app_private.detect_cost_anomaly(analysis_detect.tenant_id)
  ) as d;
  perform app_private.findings_save(tenant_id, run_id, coalesce(v_detected, '{}'));

  return query
  select 'c' || row_number() over (order by f.rank), f.id, f.detector, f.severity, f.currency,
         (select string_agg(s.key || '=' || s.value, '; ' order by s.key) from jsonb_each_text(f.slots) as s),
         array(select s.key from jsonb_object_keys(f.slots) as s (key) order by s.key),
         array[f.remediation_code, 'no_action']
  from app.findings as f
  where f.tenant_id = analysis_detect.tenant_id
    and f.run_id = analysis_detect.run_id
    and f.state in ('open', 'acknowledged')
  order by f.rank
  limit 40;
end
$$;

comment on function app.analysis_detect is
  'Runs every detector over the published costs of the tenant, keeps the findings, and answers the forty that matter '
  'most, as candidates for a model to order and word. Raises JB101, JB201 when the attempt no longer runs.';

grant execute on function app.analysis_detect to holdfast_worker;
--! EndIncluded app/analysis_detect.sql
--! Included app/analysis_get.sql
create or replace function app.analysis_get(tenant_id uuid, ticket text, analysis_id uuid)
returns table (
  id uuid, run_id uuid, status text, narrated_by text, fallback_reason text, provider text, model text,
  summary text, findings integer, llm_reserved_nanousd bigint, llm_settled_nanousd bigint,
  llm_reserved_usd numeric, llm_settled_usd numeric, error_code text,
  created_at timestamptz, started_at timestamptz, finished_at timestamptz)
language plpgsql
security definer  -- the service role may not read runs
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);

  return query
  select r.id, r.id, app_private.analysis_status(r.state), a.narrated_by, a.fallback_reason, a.provider,
         a.model, a.summary,
         a.finding_count, m.reserved, m.settled, app_private.usd(m.reserved), app_private.usd(m.settled),
         coalesce(r.error_code,
           case when a.fallback_reason in ('budget_exceeded', 'no_price') then a.fallback_reason end),
         r.created_at, r.started_at, r.finished_at
  from app.job_runs as r
  left join app.analyses as a on a.tenant_id = r.tenant_id and a.id = r.id
  cross join lateral (
    select coalesce(sum(x.estimated_cost_nanousd), 0)::bigint as reserved,
           coalesce(sum(x.cost_nanousd), 0)::bigint as settled
    from app.llm_reservations as x
    where x.tenant_id = r.tenant_id and x.run_id = r.id) as m
  where r.tenant_id = analysis_get.tenant_id and r.id = analysis_id and r.kind = 'analysis';

  if not found then
    raise exception using
      errcode = 'NA101',
      message = 'analysis_not_found',
      hint    = 'Use the id that the request for an analysis answered.';
  end if;
end
$$;

comment on function app.analysis_get is
  'An analysis: its state, how it was worded, and what its calls reserved and cost. error_code is budget_exceeded or '
  'no_price where it was worded by the template for that reason. Raises NA101, alike for an absent and a foreign id.';

grant execute on function app.analysis_get to holdfast_service, holdfast_worker;
--! EndIncluded app/analysis_get.sql
--! Included app/findings_list.sql
create or replace function app.findings_list(
  tenant_id uuid, ticket text, state text default 'open', max_rows integer default 50,
  after_rank integer default 0)
returns table (
  id uuid, rank integer, detector text, severity text, finding_state text, currency text,
  monthly_saving numeric, saving_basis text, confidence text, headline text, why text, caveats text[],
  remediation_code text, narrated_by text, scope jsonb, evidence jsonb,
  first_seen_at timestamptz, last_seen_at timestamptz, occurrences integer)
language plpgsql
security definer  -- the service role may not read findings
set search_path = ''
as $$
begin
  perform app.enter(tenant_id, ticket);
  if coalesce(state, '') not in ('open', 'acknowledged', 'snoozed', 'dismissed', 'resolved')
    or coalesce(max_rows, 0) not between 1 and 200
    or after_rank is null
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('state', state, 'max_rows', max_rows),
      hint    =
        'state is open, acknowledged, snoozed, dismissed or resolved; max_rows is 1 to 200, after_rank is a number.';
  end if;

  return query
  select f.id, f.place, f.detector, f.severity, f.state, f.currency, f.monthly_saving, f.saving_basis,
         f.confidence, app_private.render(f.headline, f.slots), app_private.render(f.why, f.slots),
         array(select app_private.render(c.caveat, f.slots) from unnest(f.caveats) as c (caveat)),
         f.remediation_code, f.narrated_by, f.scope, f.evidence, f.first_seen_at, f.last_seen_at,
         f.occurrences
  from (
    -- Counted anew within its state: findings of earlier runs kept the rank they had then, so ranks alone may tie.
    select x.*, row_number() over (order by x.rank, x.id)::integer as place
    from app.findings as x
    where x.tenant_id = findings_list.tenant_id and x.state = findings_list.state) as f
  where f.place > after_rank
  order by f.place
  limit max_rows;
end
$$;

comment on function app.findings_list is
  'The findings of a tenant in a state, best first; after_rank goes on after a page. Raises OP102.';

grant execute on function app.findings_list to holdfast_service, holdfast_worker;
--! EndIncluded app/findings_list.sql
--! Included app/job_complete.sql
create or replace function app.job_complete(
  tenant_id uuid, ticket text, run_id uuid, attempt integer, result jsonb)
returns text
language plpgsql
security definer  -- the shell may not write runs
set search_path = ''
as $$
declare
  v_kind text;
begin
  perform app.enter(tenant_id, ticket);

  -- The fence comes first: an attempt that was overtaken applies nothing.
  update app.job_runs as r
  set state = 'COMPLETED',
      result = job_complete.result,
      error_code = null,
      error = null,
      lease_until = null,
      finished_at = pg_catalog.clock_timestamp()
  where r.tenant_id = job_complete.tenant_id
    and r.id = run_id
    and r.attempt = job_complete.attempt
    and r.state = 'RUNNING'
  returning r.kind into v_kind;
  if not found then
    perform app_private.job_fenced(tenant_id, run_id, attempt);
  end if;

  perform app_private.job_apply(tenant_id, run_id, v_kind, result);
  return 'COMPLETED';
end
$$;

comment on function app.job_complete is
  'Ends an attempt with its result, which is applied in the same transaction: both or neither. Raises JB101, JB201.';

grant execute on function app.job_complete to holdfast_worker;
--! EndIncluded app/job_complete.sql
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

  -- Last, for it locks the tables that reservations and runs are written to.
  partitions_made := app_private.partitions_make();
  return next;
end
$$;

comment on function app.maintain is
  'What must be done now and then: partitions ahead of time, lines of imports that nobody sees. '
  'Each call is one short transaction: call again while rows_swept is not 0. Safe at any time and by many.';

grant execute on function app.maintain to holdfast_worker, holdfast_ops;
--! EndIncluded app/maintain.sql

-- For people in psql, and for the lint.
--! Included app_private/reason_check.sql
create or replace function app_private.reason_check(reason text) returns void
language plpgsql
immutable
set search_path = ''
as $$
begin
  if pg_catalog.length(pg_catalog.btrim(coalesce(reason, ''))) < 3 then
    raise exception using
      errcode = 'OP101',
      message = 'reason_required',
      hint    = 'Say why, for those who read ops.audit_log: reason => ''…''.';
  end if;
end
$$;

comment on function app_private.reason_check is 'Raises OP101 unless a person gave a reason of at least 3 characters.';

grant execute on function app_private.reason_check to holdfast_system;
--! EndIncluded app_private/reason_check.sql
--! Included app_private/nanousd.sql
create or replace function app_private.nanousd(usd numeric) returns bigint
language plpgsql
immutable
set search_path = ''
as $$
begin
  -- NaN is above every number, so the upper bound refuses it too.
  if usd is null or not (usd >= 0 and usd <= 1000000000) then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('usd', usd::text),
      hint    = 'An amount is 0 to 1,000,000,000 US dollars.';
  end if;
  return pg_catalog.floor(usd * 1000000000)::bigint;
end
$$;

comment on function app_private.nanousd is
  'US dollars as nano-USD, rounded down: a limit is never more than was said. Raises OP102.';

grant execute on function app_private.nanousd to holdfast_system;
--! EndIncluded app_private/nanousd.sql
--! Included app_private/tenant_check.sql
set local role holdfast_system;

create or replace function app_private.tenant_check(
  name text, tier text, time_zone text, required_tags text[]) returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  v_wrong text := case
    when coalesce(pg_catalog.length(name), 0) not between 1 and 100 or name <> pg_catalog.btrim(name)
      or name ~ '[[:cntrl:]]' then 'name'
    when not exists (select from app.tiers as t where t.tier = tenant_check.tier) then 'tier'
    when not exists (select from pg_catalog.pg_timezone_names as z where z.name = time_zone)
      then 'time_zone'
    when pg_catalog.cardinality(required_tags) > 20
      or exists (select from unnest(required_tags) as r (tag)
                 where coalesce(r.tag, '') !~ '^[^[:cntrl:]]{1,128}$')
      or (select count(distinct r.tag) from unnest(required_tags) as r (tag))
        <> pg_catalog.cardinality(required_tags)
      then 'required_tags' end;
begin
  if v_wrong is not null then
    raise exception using
      errcode = 'TN103',
      message = 'tenant_invalid',
      detail  = pg_catalog.jsonb_build_object('argument', v_wrong),
      hint    = 'A name has 1 to 100 printable characters, a tier is a row of app.tiers, a time zone is one '
                'like Europe/Berlin, and at most 20 different tags of 1 to 128 characters are required.';
  end if;
end
$$;

comment on function app_private.tenant_check is 'Raises TN103 unless a tenant may be made like this.';

set local role holdfast_owner;
--! EndIncluded app_private/tenant_check.sql
--! Included ops/audit_log.sql
create table if not exists ops.audit_log (
  id         uuid        not null default app_private.uuid_v7(),
  created_at timestamptz not null default now(),
  actor      text        not null default session_user,
  action     text        not null,
  subject    text        not null,
  reason     text        not null,
  before     jsonb,
  after      jsonb,

  constraint audit_log_pkey primary key (id),
  constraint audit_log_reason_given check (length(btrim(reason)) >= 3)
);

comment on table ops.audit_log is 'Every change that a person made through a function of ops. Append only.';
comment on column ops.audit_log.id is 'UUIDv7: also the order of changes.';
comment on column ops.audit_log.created_at is 'When it was made.';
comment on column ops.audit_log.actor is 'The login that made it.';
comment on column ops.audit_log.action is 'The function that was called.';
comment on column ops.audit_log.subject is 'What it changed: a tenant, a model.';
comment on column ops.audit_log.reason is 'Why, in the words of the person.';
comment on column ops.audit_log.before is 'What stood before; null for something new.';
comment on column ops.audit_log.after is 'What stands now.';

grant select on ops.audit_log to holdfast_ops;
grant insert on ops.audit_log to holdfast_system;
--! EndIncluded ops/audit_log.sql
--! Included ops/tenants.sql
set local role holdfast_system;

create or replace view ops.tenants as
select t.name as tenant, t.tier, t.status, t.time_zone, t.sample, t.tenant_id, t.created_at
from app.tenants as t
join app.tiers as r on r.tier = t.tier
order by r.rank, t.name;

comment on view ops.tenants is 'Every tenant, by tier.';

grant select on ops.tenants to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/tenants.sql
--! Included ops/tenant_add.sql
set local role holdfast_system;

create or replace function ops.tenant_add(
  name text, reason text, limit_usd numeric, tier text default 'ACTIVE', time_zone text default 'UTC',
  required_tags text[] default null, sample boolean default false)
returns table (tenant_id uuid, tenant text, tier_now text, monthly_limit_usd numeric)
language plpgsql
security definer  -- sees all tenants: it makes one
set search_path = ''
set row_security = on
as $$
declare
  v_tenant app.tenants;
begin
  perform app_private.reason_check(reason);
  perform app_private.tenant_check(name, tier, time_zone, required_tags);

  insert into app.tenants as t (name, tier, time_zone, required_tags, sample)
  values (tenant_add.name, tenant_add.tier, tenant_add.time_zone,
          coalesce(tenant_add.required_tags, '{environment,owner,cost_center}'), tenant_add.sample)
  on conflict on constraint tenants_name_once do nothing
  returning * into v_tenant;
  if not found then
    raise exception using
      errcode = 'TN102',
      message = 'tenant_name_taken',
      detail  = pg_catalog.jsonb_build_object('name', name),
      hint    = 'select * from ops.tenants lists the names that are taken.';
  end if;

  insert into app.llm_budgets (tenant_id, limit_nanousd)
  values (v_tenant.tenant_id, app_private.nanousd(tenant_add.limit_usd));

  insert into ops.audit_log (action, subject, reason, after)
  values ('tenant_add', name, reason,
          pg_catalog.to_jsonb(v_tenant) || pg_catalog.jsonb_build_object('limit_usd', limit_usd));

  return query select v_tenant.tenant_id, v_tenant.name, v_tenant.tier, tenant_add.limit_usd;
end
$$;

comment on function ops.tenant_add is
  'Makes a tenant with a monthly budget in US dollars, among all tenants; audited. Raises TN102, TN103, OP101, OP102.';

grant execute on function ops.tenant_add to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/tenant_add.sql
--! Included ops/budget_set.sql
set local role holdfast_system;

create or replace function ops.budget_set(
  tenant text, limit_usd numeric, reason text, period text default 'month', dry_run boolean default false,
  expected_version bigint default null)
returns table (tenant_name text, budget_period text, before_usd numeric, after_usd numeric, version bigint)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_tenant_id constant uuid := app.tenant_find(tenant);
  v_limit     constant bigint := app_private.nanousd(limit_usd);
  v_before    app.llm_budgets;
  v_version   bigint;
begin
  perform app_private.reason_check(reason);
  if period is null or period not in ('day', 'week', 'month', 'total') then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      detail  = pg_catalog.jsonb_build_object('period', period),
      hint    = 'A period is day, week, month or total.';
  end if;

  select b.* into v_before
  from app.llm_budgets as b
  where b.tenant_id = v_tenant_id and b.scope = 'tenant' and b.period = budget_set.period
  for no key update;
  if expected_version is not null and v_before.version is distinct from expected_version then
    raise exception using
      errcode = 'VR201',
      message = 'optimistic_lock_failed',
      detail  = pg_catalog.jsonb_build_object('expected', expected_version, 'found', v_before.version),
      hint    = 'Someone changed it since you read it. Read ops.budgets again.';
  end if;

  v_version := coalesce(v_before.version, 0) + 1;
  if not dry_run then
    insert into app.llm_budgets as b (tenant_id, period, limit_nanousd)
    values (v_tenant_id, budget_set.period, v_limit)
    on conflict on constraint llm_budgets_once
      do update set limit_nanousd = excluded.limit_nanousd, version = b.version + 1, updated_at = now()
    returning b.version into v_version;

    insert into ops.audit_log (action, subject, reason, before, after)
    values ('budget_set', tenant, reason,
            case when v_before.id is not null then pg_catalog.to_jsonb(v_before) end,
            pg_catalog.jsonb_build_object('limit_usd', limit_usd, 'period', period, 'version', v_version));
  end if;

  return query
  select tenant, period, app_private.usd(v_before.limit_nanousd), app_private.usd(v_limit), v_version;
end
$$;

comment on function ops.budget_set is
  'Sets what a tenant may spend on LLM calls per period, in US dollars, among all tenants; audited. A lower limit only '
  'stops new calls. dry_run shows the change without making it. Raises TN101, VR201, OP101, OP102.';

grant execute on function ops.budget_set to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/budget_set.sql
--! Included ops/llm_price_set.sql
set local role holdfast_system;

create or replace function ops.llm_price_set(
  provider text, model text, input_usd_per_million numeric, output_usd_per_million numeric, reason text,
  cached_input_usd_per_million numeric default null, dry_run boolean default false)
returns table (unit text, before_usd_per_million numeric, after_usd_per_million numeric)
language plpgsql
security definer  -- prices are for all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_now    constant timestamptz := pg_catalog.clock_timestamp();
  v_after  constant jsonb := pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
    'input', input_usd_per_million, 'cached_input', cached_input_usd_per_million,
    'output', output_usd_per_million));
  v_before jsonb;
begin
  perform app_private.reason_check(reason);
  if coalesce(pg_catalog.length(provider), 0) not between 1 and 200
    or coalesce(pg_catalog.length(model), 0) not between 1 and 200
    or not coalesce(input_usd_per_million between 0 and 100000
      and output_usd_per_million between 0 and 100000, false)
    or not coalesce(cached_input_usd_per_million between 0 and input_usd_per_million, true)
  then
    raise exception using
      errcode = 'OP102',
      message = 'argument_invalid',
      hint    =
        'Prices are 0 to 100,000 US dollars per million tokens, and cached input costs no more than input.';
  end if;

  select coalesce(pg_catalog.jsonb_object_agg(p.unit, p.usd_per_million), '{}') into v_before
  from app.llm_prices as p
  where p.provider = llm_price_set.provider and p.model = llm_price_set.model and p.valid @> v_now;

  if not dry_run then
    -- The versions that stand end now; holds that were made with them are settled with them.
    update app.llm_prices as p
    set valid = tstzrange(lower(p.valid), v_now)
    where p.provider = llm_price_set.provider and p.model = llm_price_set.model and p.valid @> v_now;

    insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
    select llm_price_set.provider, llm_price_set.model, n.key, n.value::numeric, tstzrange(v_now, null),
           'ops: ' || session_user
    from pg_catalog.jsonb_each_text(v_after) as n;

    insert into ops.audit_log (action, subject, reason, before, after)
    values ('llm_price_set', provider || '/' || model, reason, nullif(v_before, '{}'), v_after);
  end if;

  return query
  select u.unit, (v_before ->> u.unit)::numeric, (v_after ->> u.unit)::numeric
  from unnest(array['input', 'cached_input', 'output']) as u (unit)
  where v_before ? u.unit or v_after ? u.unit;
end
$$;

comment on function ops.llm_price_set is
  'Sets the price of a model from now on, in US dollars per million tokens, for all tenants; audited. dry_run shows '
  'the change without making it. Raises OP101, OP102.';

grant execute on function ops.llm_price_set to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/llm_price_set.sql
--! Included ops/llm_write_off.sql
set local role holdfast_system;

create or replace function ops.llm_write_off(reservation_id uuid, reason text, dry_run boolean default false)
returns table (tenant text, model text, amount_usd numeric, status text)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_held app.llm_reservations;
begin
  perform app_private.reason_check(reason);
  select r.* into v_held from app.llm_reservations as r where r.id = reservation_id for no key update;
  if not found then
    raise exception using
      errcode = 'LB104',
      message = 'reservation_not_found',
      hint    = 'select * from ops.llm_calls where status = ''PRESUMED'' lists what can be written off.';
  end if;

  if v_held.status <> 'PRESUMED' then
    perform app_private.llm_closed(v_held);
  end if;

  if not dry_run then
    update app.llm_reservations as r
    set status = 'WRITTEN_OFF',
        reason = pg_catalog.left(llm_write_off.reason, 200),
        closed_at = pg_catalog.clock_timestamp()
    where r.tenant_id = v_held.tenant_id and r.id = v_held.id;
    with held as (
      select p.tenant_id, p.budget_id, p.period_start
      from app.llm_reservation_budgets as h
      join app.llm_budget_periods as p
        on p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start
      where h.tenant_id = v_held.tenant_id and h.reservation_id = v_held.id
      order by p.budget_id
      for no key update of p
    )
    update app.llm_budget_periods as p
    set presumed_nanousd = p.presumed_nanousd - v_held.estimated_cost_nanousd
    from held as h
    where p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start;
    insert into ops.audit_log (action, subject, reason, before, after)
    select 'llm_write_off', t.name, llm_write_off.reason, pg_catalog.to_jsonb(v_held),
           pg_catalog.jsonb_build_object('status', 'WRITTEN_OFF')
    from app.tenants as t where t.tenant_id = v_held.tenant_id;
  end if;

  return query
  select t.name, v_held.model, app_private.usd(v_held.estimated_cost_nanousd),
         case when dry_run then v_held.status else 'WRITTEN_OFF' end
  from app.tenants as t where t.tenant_id = v_held.tenant_id;
end
$$;

comment on function ops.llm_write_off is
  'Gives back what a PRESUMED hold counts, once the provider''s bill shows that the call was not charged, among all tenants; '
  'audited. dry_run shows it without doing it. Raises LB104, LB201 for a hold that is not PRESUMED, OP101.';

grant execute on function ops.llm_write_off to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/llm_write_off.sql
--! Included ops/report.sql
set local role holdfast_system;

create or replace view ops.report as
select t.name as tenant, t.tier,
       coalesce(c.lines, 0) as rows, coalesce(c.flagged, 0) as flags, coalesce(f.findings, 0) as findings,
       case when s.currencies = 1 then s.saving end as saving, coalesce(s.currency, c.currency) as currency,
       coalesce(m.reserved, 0) as reserved, coalesce(m.settled, 0) as settled, b.left_usd as "left",
       case when r.id is null then 'no_analysis'
            when r.state = 'DEAD_LETTER' then r.error_code
            when r.state <> 'COMPLETED' then 'running'
            when a.narrated_by = 'model' or a.fallback_reason = 'no_findings' then 'completed'
            else a.fallback_reason end as state
from app.tenants as t
join app.tiers as x on x.tier = t.tier
left join lateral (
  select sum(d.line_count) as lines, sum(d.flagged_count) as flagged,
         mode() within group (order by d.billing_currency) as currency
  from app.cost_periods as p
  join app.cost_daily as d
    on d.tenant_id = p.tenant_id and d.import_id = p.import_id
    and d.billing_period_start = p.billing_period_start
  where p.tenant_id = t.tenant_id) as c on true
left join lateral (
  select count(*) as findings from app.findings as f
  where f.tenant_id = t.tenant_id and f.state = 'open') as f on true
left join lateral (
  select count(*) as currencies, min(p.currency) as currency, min(p.saving) as saving
  from (select f.currency, sum(f.monthly_saving) as saving from app.findings as f
        where f.tenant_id = t.tenant_id and f.state = 'open' and f.monthly_saving is not null
        group by f.currency) as p) as s on true
left join lateral (
  select r.id, r.state, r.error_code from app.job_runs as r
  where r.tenant_id = t.tenant_id and r.kind = 'analysis' order by r.id desc limit 1) as r on true
left join app.analyses as a on a.tenant_id = t.tenant_id and a.id = r.id
left join lateral (
  select trim_scale(sum(v.estimated_cost_nanousd) / 1000000000) as reserved,
         trim_scale(sum(v.cost_nanousd) / 1000000000) as settled
  from app.llm_reservations as v
  where v.tenant_id = t.tenant_id and v.run_id = r.id and v.status <> 'RELEASED') as m on true
left join lateral (
  select min(trim_scale((g.limit_nanousd
           - coalesce(p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd, 0))
           / 1000000000.0)) as left_usd
  from app.llm_budgets as g
  left join app.llm_budget_periods as p
    on p.tenant_id = g.tenant_id and p.budget_id = g.id and p.period_start <= now() and p.period_end > now()
  where g.tenant_id = t.tenant_id) as b on true
order by x.rank, t.name;

comment on view ops.report is
  'One line per tenant: cost lines and how many are flagged, open findings, what they could save a month, what the '
  'last analysis reserved and cost in US dollars, what is left of the budget, and how it ended. '
  'saving is null where unknown.';

grant select on ops.report to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/report.sql
--! Included ops/report_text.sql
set local role holdfast_system;

create or replace view ops.report_text as
select r.tenant,
       r.tier || ' ' || round(extract(epoch from t.every) / 3600, 1)::float8 || ' h' as tier,
       to_char(r.rows, 'FM999,999,999,999') as rows,
       to_char(r.flags, 'FM999,999,999,999') as flags,
       r.findings::text as findings,
       coalesce(to_char(r.saving, 'FM999,999,999,999,990') || ' ' || r.currency, '-') as saving,
       '$' || to_char(r.reserved, 'FM999,999,990.0000') as reserved,
       '$' || to_char(r.settled, 'FM999,999,990.0000') as settled,
       coalesce('$' || to_char(r."left", 'FM999,999,990.00'), 'no budget') as "left",
       r.state
from ops.report as r
join app.tiers as t on t.tier = r.tier
order by t.rank, r.tenant;

comment on view ops.report_text is 'ops.report as people read it: thousands, currencies, dollars.';

grant select on ops.report_text to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/report_text.sql
--! Included ops/findings_all.sql
set local role holdfast_system;

create or replace view ops.findings_all as
select t.name as tenant, f.rank, f.severity, f.monthly_saving as saving, f.currency as cur,
       app_private.render(f.headline, f.slots) as headline, f.detector, f.confidence, f.state,
       app_private.render(f.why, f.slots) as why, f.narrated_by, f.evidence, f.first_seen_at, f.last_seen_at,
       f.resolved_at, f.id
from app.findings as f
join app.tenants as t on t.tenant_id = f.tenant_id
order by array_position(array['critical', 'high', 'medium', 'low', 'info'], f.severity),
         f.monthly_saving desc nulls last, t.name, f.rank;

comment on view ops.findings_all is
  'Every finding of every tenant in whatever state, what has ended too. ops.findings shows those that stand.';

grant select on ops.findings_all to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/findings_all.sql
--! Included ops/findings.sql
set local role holdfast_system;

create or replace view ops.findings as
select f.tenant, f.severity, f.saving, f.cur, f.headline, f.why, f.detector, f.confidence, f.rank,
       f.state, f.narrated_by, f.evidence, f.first_seen_at, f.last_seen_at, f.id
from ops.findings_all as f
where f.state in ('open', 'acknowledged');

comment on view ops.findings is
  'The findings that stand, of every tenant, best first: by severity, then by what a month of it costs too much.';

grant select on ops.findings to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/findings.sql
--! Included ops/cost_daily.sql
set local role holdfast_system;

create or replace view ops.cost_daily as
select t.name as tenant, d.day, d.provider_name as provider, d.sub_account_id as sub_account,
       d.service_name as service, d.region_id as region, d.charge_category as category, d.correction,
       d.billing_currency as cur, d.effective_cost, d.billed_cost, d.line_count as lines,
       d.flagged_count as flagged
from app.cost_periods as p
join app.cost_daily as d
  on d.tenant_id = p.tenant_id
  and d.import_id = p.import_id
  and d.billing_period_start = p.billing_period_start
join app.tenants as t on t.tenant_id = p.tenant_id;

comment on view ops.cost_daily is
  'What every tenant''s published lines cost, by UTC day and dimension: what the detectors read. The query of a finding''s '
  'evidence reads it.';

grant select on ops.cost_daily to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/cost_daily.sql
--! Included ops/budgets.sql
set local role holdfast_system;

create or replace view ops.budgets as
select t.name as tenant, b.period, trim_scale(b.limit_nanousd / 1000000000.0) as limit_usd,
       trim_scale(coalesce(p.spent_nanousd, 0) / 1000000000.0) as spent_usd,
       trim_scale(coalesce(p.reserved_nanousd, 0) / 1000000000.0) as reserved_usd,
       trim_scale(coalesce(p.presumed_nanousd, 0) / 1000000000.0) as presumed_usd,
       trim_scale((b.limit_nanousd - coalesce(p.spent_nanousd + p.reserved_nanousd + p.presumed_nanousd, 0))
         / 1000000000.0) as left_usd,
       p.period_end, b.version
from app.llm_budgets as b
join app.tenants as t on t.tenant_id = b.tenant_id
left join app.llm_budget_periods as p
  on p.tenant_id = b.tenant_id and p.budget_id = b.id and p.period_start <= now() and p.period_end > now()
order by t.name, b.period;

comment on view ops.budgets is 'Every budget in its current period, in US dollars. Change one with ops.budget_set.';

grant select on ops.budgets to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/budgets.sql
--! Included ops/imports.sql
set local role holdfast_system;

create or replace view ops.imports as
select t.name as tenant, i.status, i.file_name, i.source, i.line_count as lines, i.flagged_count as flagged,
       i.flags, i.error, i.started_at, i.finished_at, i.id
from app.cost_imports as i
join app.tenants as t on t.tenant_id = i.tenant_id
order by i.id desc;

comment on view ops.imports is
  'Every cost file that was read, newest first: its data-quality flags, or why it was refused.';

grant select on ops.imports to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/imports.sql
--! Included ops/runs.sql
set local role holdfast_system;

create or replace view ops.runs as
select t.name as tenant, r.kind, r.state, r.attempt, r.error_code,
       date_trunc('second', coalesce(r.finished_at, r.started_at, r.available_at)) as at,
       round(extract(epoch from r.finished_at - r.started_at), 1) as seconds, r.error, r.id, r.tenant_id
from app.job_runs as r
join app.tenants as t on t.tenant_id = r.tenant_id
order by r.id desc;

comment on view ops.runs is 'Every run, newest first; app.job_run_events has each step of it.';

grant select on ops.runs to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/runs.sql
--! Included ops/run_events.sql
set local role holdfast_system;

create or replace view ops.run_events as
select t.name as tenant, e.created_at, e.from_state, e.to_state, e.attempt, e.actor, e.reason, e.run_id
from app.job_run_events as e
join app.tenants as t on t.tenant_id = e.tenant_id
order by e.id;

comment on view ops.run_events is 'Each change of state of each run, oldest first; filter it by the id of ops.runs.';

grant select on ops.run_events to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/run_events.sql
--! Included ops/llm_calls.sql
set local role holdfast_system;

create or replace view ops.llm_calls as
select t.name as tenant, r.status, r.model,
       trim_scale(r.estimated_cost_nanousd / 1000000000.0) as reserved_usd,
       trim_scale(r.cost_nanousd / 1000000000.0) as cost_usd, u.input_tokens, u.output_tokens, r.reason,
       u.simulated, r.created_at, r.run_id, r.id
from app.llm_reservations as r
join app.tenants as t on t.tenant_id = r.tenant_id
left join app.llm_usage as u on u.tenant_id = r.tenant_id and u.reservation_id = r.id
order by r.id desc;

comment on view ops.llm_calls is 'Every call to a model, newest first: what was held before it and what it cost.';

grant select on ops.llm_calls to holdfast_ops;

set local role holdfast_owner;
--! EndIncluded ops/llm_calls.sql
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
  ('ops.tenant_add',
   'select * from ops.tenant_add(name => ''Acme'', limit_usd => 25, reason => ''new customer'')',
   'Make a tenant with a monthly budget.'),
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
--! Included app_private/lint_isolation.sql
create or replace view app_private.lint_isolation as
with tenant_tables as (
  select c.oid, c.relispartition, c.relrowsecurity, c.relforcerowsecurity, a.attnum
  from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops')
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
-- The logins may touch no table, the tenant role may only select, and nobody may what everybody may.
select 'grant_unexpected',
       c.oid::regclass::text || ' ' || coalesce(r.rolname, 'public') || ' ' || x.privilege_type
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops')
cross join lateral (
  select a.grantee, a.privilege_type from pg_catalog.aclexplode(c.relacl) as a
  union
  select a.grantee, a.privilege_type
  from pg_catalog.pg_attribute as t cross join lateral pg_catalog.aclexplode(t.attacl) as a
  where t.attrelid = c.oid) as x
left join pg_catalog.pg_roles as r on r.oid = x.grantee
where x.grantee = 0
  or (r.rolname in ('holdfast_service', 'holdfast_worker')
    and (c.oid, x.privilege_type) <> ('app.error_codes'::regclass, 'SELECT'))
  or (r.rolname = 'holdfast_tenant' and (x.privilege_type <> 'SELECT' or c.relispartition))
union all
-- Row security binds an owner only while it is forced, and a superuser never.
select 'owner_unexpected', c.oid::regclass::text || ' ' || pg_catalog.pg_get_userbyid(c.relowner)
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops')
where c.relkind in ('r', 'p', 'v', 'm', 'S', 'c')
  and (pg_catalog.pg_get_userbyid(c.relowner) not in ('holdfast_owner', 'holdfast_system')
    or (c.relkind in ('r', 'p') and pg_catalog.pg_get_userbyid(c.relowner) <> 'holdfast_owner'))
union all
select 'owner_unexpected', p.oid::regprocedure::text || ' ' || pg_catalog.pg_get_userbyid(p.proowner)
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops')
where pg_catalog.pg_get_userbyid(p.proowner) not in ('holdfast_owner', 'holdfast_system')
union all
select 'view_hides_its_reader', c.oid::regclass::text
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops')
cross join lateral pg_catalog.aclexplode(c.relacl) as x
where c.relkind in ('v', 'm')
  and pg_catalog.pg_get_userbyid(x.grantee) = 'holdfast_tenant'
  and c.oid <> 'app.error_codes'::regclass
  and not coalesce(c.reloptions @> '{security_invoker=true,security_barrier=true}', false)
union all
-- Without a list of rights, everybody has those that PostgreSQL gives by default.
select 'database_open_to_public', d.datname || ' ' || x.privilege_type
from pg_catalog.pg_database as d
cross join lateral pg_catalog.aclexplode(
  coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) as x
where d.datname = current_database() and x.grantee = 0;

comment on view app_private.lint_isolation is
  'Tables, keys, policies, grants and views that weaken tenant isolation, and a database that everybody may enter.';
--! EndIncluded app_private/lint_isolation.sql
--! Included app_private/lint_functions.sql
create or replace view app_private.lint_functions as
with functions as (
  select p.oid, n.nspname, p.proname, p.prosecdef, p.provolatile, p.proparallel, p.prorettype, p.prosrc,
         p.prosqlbody, p.proconfig, l.lanname, pg_catalog.pg_get_userbyid(p.proowner) as owner,
         coalesce(p.proargnames[1:2], '{}') as first_arguments,
         coalesce(pg_catalog.obj_description(p.oid, 'pg_proc'), '') as meaning
  from pg_catalog.pg_proc as p
  join pg_catalog.pg_namespace as n on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops')
  join pg_catalog.pg_language as l on l.oid = p.prolang
)
select 'function_without_search_path' as rule, f.oid::regprocedure::text as object
from functions as f
where f.prosqlbody is null and not coalesce('search_path=""' = any (f.proconfig), false)
union all
select 'immutable_reads_the_tenant', f.oid::regprocedure::text
from functions as f
where f.provolatile = 'i' and f.prosrc ~* 'current_setting|current_tenant_id'
  and f.prorettype <> 'boolean'::regtype
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
  and f.proname not in ('current_tenant_id', 'ticket_check', 'migration_applied', 'tokens_add',
    'partitions_make', 'maintain')
union all
-- What sees all tenants says so, and turns row security on so that its own policy applies.
select 'system_function_unmarked', f.oid::regprocedure::text
from functions as f
where f.owner = 'holdfast_system' and f.prosecdef
  and not (f.meaning ~ 'all tenants' and coalesce('row_security=on' = any (f.proconfig), false))
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
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops')
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
from pg_catalog.pg_proc as p
join pg_catalog.pg_namespace as n on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops')
where pg_catalog.obj_description(p.oid, 'pg_proc') is null
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
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname in ('app', 'app_private', 'ops')
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
join pg_catalog.pg_namespace as n on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops')
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
where n.nspname in ('app', 'app_private', 'ops');

comment on view app_private.schema_snapshot is
  'Everything that the files of sql/ and the migrations must agree on, as text: columns, constraints, indexes, '
  'functions with their settings, triggers, policies, owners and grants.';
--! EndIncluded app_private/schema_snapshot.sql

-- The partitions of this month and the next ones.
--! Included app_private/partitions_now.sql
-- Run again at any time: app.maintain() does the same, hourly.
select app_private.partitions_make();
--! EndIncluded app_private/partitions_now.sql
--! EndIncluded index.sql
