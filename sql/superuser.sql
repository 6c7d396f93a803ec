-- What only a superuser can do for holdfast. Run it in holdfast's own database, after roles.sql: the rights
-- on PostgreSQL's own functions and languages are kept in each database.
--   psql "$SUPERUSER_URL" -v ON_ERROR_STOP=1 -f sql/superuser.sql
-- No tenant's rows depend on it. It shuts the doors beside the tables, for whoever can run SQL of their own
-- as holdfast_tenant, and so as holdfast_service, to which it may go back: all tenants' sessions are sessions
-- of these two. Run it again at any time, and once more after pg_upgrade or after an extension was added.
-- Where there is no superuser, `select * from ops.doctor()` says which door stays open.

-- Two logins that are more than the others, and so are not in roles.sql. Passwords are not set here.
-- holdfast_backup reads every row of every tenant, for pg_dump, and writes none. holdfast_replicator may
-- stream changes; it has no right on a table yet.
do $$
begin
  if pg_catalog.to_regrole('holdfast_backup') is null then
    create role holdfast_backup login inherit bypassrls;
    comment on role holdfast_backup is 'Dumps the database: reads the rows of all tenants, and writes none.';
    alter role holdfast_backup set default_transaction_read_only = on;
    grant pg_read_all_data to holdfast_backup;
  end if;
  -- By name: what everybody may is taken away by the migrations.
  if not exists (
    select from pg_catalog.pg_database as d cross join lateral pg_catalog.aclexplode(d.datacl) as x
    where d.datname = pg_catalog.current_database() and x.grantee = 'holdfast_backup'::regrole)
  then
    execute pg_catalog.format(
      'grant connect on database %I to holdfast_backup', pg_catalog.current_database());
  end if;
  if pg_catalog.to_regrole('holdfast_replicator') is null then
    create role holdfast_replicator login noinherit replication;
    comment on role holdfast_replicator is 'Streams changes to a replica.';
  end if;
end
$$;

-- A ticket is given as a parameter, and the server's log shows parameters wherever it shows a statement: not
-- those of the logins that give tickets. auto_explain, where it is loaded, shows them in plans too, and so is
-- off for these logins. And one sort of the tenant role could fill the disk for everybody on the server: each
-- session of its login has so much room for temporary files.
do $$
declare
  v_wanted record;
begin
  for v_wanted in
    select l.name as login, s.name as setting, s.value
    from (values ('holdfast_service'), ('holdfast_worker'), ('holdfast_ops')) as l (name)
    join pg_catalog.pg_roles as r on r.rolname = l.name
    join (values
      (null,               'log_parameter_max_length', '0'),
      (null,               'log_parameter_max_length_on_error', '0'),
      (null,               'auto_explain.log_min_duration', '-1'),
      ('holdfast_service', 'temp_file_limit', '1GB')) as s (login, name, value)
      on coalesce(s.login, l.name) = l.name
    where pg_catalog.current_setting(s.name, true) is not null
      and not coalesce(s.name || '=' || s.value = any (r.rolconfig), false)
  loop
    execute pg_catalog.format('alter role %I set %s = %L', v_wanted.login, v_wanted.setting, v_wanted.value);
  end loop;
end
$$;

-- Functions that everybody may call. Each group is taken from everybody, and given to who needs it.
do $$
declare
  v_group    record;
  v_function regprocedure;
begin
  for v_group in
    select g.pattern, g.kept_for
    from (values
      -- Signals: a session may end any other of its own role, which is every other tenant's.
      ('^pg_(cancel|terminate)_backend$',
       'pg_signal_backend'),

      -- Activity: what the other sessions of the same role run, and since when; who is connected; who waits.
      ('^(pg_stat_get_activity|pg_stat_get_backend_.*|pg_lock_status|pg_blocking_pids'
         '|pg_safe_snapshot_blocking_pids|pg_isolation_test_session_is_blocked)$',
       'pg_read_all_stats, holdfast_ops, holdfast_metrics, holdfast_owner, holdfast_system'),

      -- Volume: live counters of rows and bytes. The difference between two looks is what the others wrote
      -- meanwhile, table by table. (pg_class.reltuples says it as of the last ANALYZE; clients need that.)
      ('^(pg_stat_get_(?!activity$|backend_).*|pg_(current|last)_wal_.*|pg_last_xact_replay_timestamp'
         '|pg_last_committed_xact|pg_xact_commit_timestamp.*|pg_control_checkpoint|pg_get_replication_slots'
         '|pg_available_wal_summaries|pg_wal_summary_contents|pg_get_wal_summarizer_state'
         '|pg_(relation|table|indexes|total_relation|database|tablespace)_size)$',
       'pg_read_all_stats, holdfast_ops, holdfast_metrics, holdfast_owner, holdfast_system, '
         'holdfast_replicator'),

      -- Advisory locks: their keys are the whole database's. One tenant could hold what another waits for, or
      -- look whether it is held. Migrations take some, and functions of ours, which run as holdfast_owner.
      ('^pg_(try_)?advisory_.*$',
       'holdfast_owner, holdfast_admin'),

      -- Large objects: a store without row security; one that a login makes is open to all of its sessions.
      ('^(lo_(?!import$|export$).*|loread|lowrite)$',
       null),

      -- Messages in the write-ahead log: words of a role that may write nothing, to whoever decodes the log.
      ('^pg_logical_emit_message$',
       null),

      -- Exported snapshots: each is a file on the server, and nothing bounds how many. pg_dump makes one.
      ('^pg_export_snapshot$',
       'holdfast_backup'),

      -- Files of the server: PostgreSQL keeps these to itself, unless somebody opened one.
      ('^(pg_read_(binary_)?file|pg_stat_file|pg_ls_.*|lo_import|lo_export)$',
       null)
    ) as g (pattern, kept_for)
  loop
    for v_function in
      select p.oid
      from pg_catalog.pg_proc as p
      where p.pronamespace = 'pg_catalog'::regnamespace
        and p.proname ~ v_group.pattern
        -- What is right already is left alone: a change would make every session forget its plans.
        and (pg_catalog.has_function_privilege('public', p.oid, 'execute')
          or exists (
            select from pg_catalog.string_to_table(v_group.kept_for, ', ') as k (name)
            where not pg_catalog.has_function_privilege(k.name, p.oid, 'execute')))
    loop
      execute pg_catalog.format('revoke execute on function %s from public', v_function);
      if v_group.kept_for is not null then
        execute pg_catalog.format('grant execute on function %s to %s', v_function, v_group.kept_for);
      end if;
    end loop;
  end loop;
end
$$;

-- Languages: with plpgsql, one DO is a program: it loops, and catches the errors with which statements are
-- refused. Functions that are there run on, whoever calls them; who makes new ones keeps the right.
do $$
declare
  v_language name;
begin
  for v_language in
    select l.lanname
    from pg_catalog.pg_language as l
    where l.lanpltrusted and l.lanname <> 'sql'
      and pg_catalog.has_language_privilege('public', l.oid, 'usage')
  loop
    execute pg_catalog.format('revoke usage on language %I from public', v_language);
    execute pg_catalog.format(
      'grant usage on language %I to holdfast_owner, holdfast_system, holdfast_admin', v_language);
  end loop;
end
$$;

-- Extensions that PostgreSQL does not trust (pg_stat_statements shows what all tenants run and how often,
-- dblink connects as somebody else): nothing of them is for everybody. btree_gist, which we use, is trusted.
do $$
declare
  v_object record;
begin
  for v_object in
    select case when p.oid is not null then 'execute on routine' else 'all on table' end as rights,
           coalesce(p.oid::regprocedure::text, c.oid::regclass::text) as name
    from pg_catalog.pg_extension as e
    join pg_catalog.pg_available_extension_versions as v
      on v.name = e.extname and v.version = e.extversion and not v.trusted
    join pg_catalog.pg_depend as d
      on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and d.deptype = 'e'
    left join pg_catalog.pg_proc as p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
    left join pg_catalog.pg_class as c on d.classid = 'pg_class'::regclass and c.oid = d.objid
    where pg_catalog.has_function_privilege('public', p.oid, 'execute')
      or (c.relkind in ('r', 'p', 'v', 'm', 'f')
        and pg_catalog.has_table_privilege('public', c.oid, 'select, insert, update, delete, truncate'))
  loop
    execute pg_catalog.format('revoke %s %s from public', v_object.rights, v_object.name);
  end loop;
end
$$;

-- No DDL in the login as which all tenants' sessions run, nor in what it becomes. Most DDL asks for its lock
-- before its right is checked: `create rule` on a table of somebody else waits for that table's readers, and
-- everybody who comes later waits behind it; on a table of the catalog, that is everybody in the cluster. An
-- event trigger comes before the lock. Its function runs as whoever does the DDL, superusers too: it belongs
-- to the superuser who runs this file, in a schema where nobody else makes anything. holdfast_worker is left
-- out, for its maintenance makes partitions, and so are people. The doctor knows this text: doctor_ddl.sql.
do $$
declare
  v_body constant text :=
    ' begin'
    ' if session_user = ''holdfast_service'' then'
    ' raise insufficient_privilege using message = ''no DDL for this login'';'
    ' end if;'
    ' end ';
begin
  if exists (
    select
    from pg_catalog.pg_event_trigger as t
    join pg_catalog.pg_proc as p on p.oid = t.evtfoid
    join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
    join pg_catalog.pg_roles as r on r.oid = p.proowner
    join pg_catalog.pg_roles as o on o.oid = n.nspowner
    where t.evtname = 'holdfast_no_ddl' and t.evtevent = 'ddl_command_start' and t.evttags is null
      and t.evtenabled = 'A' and n.nspname = 'holdfast_guard' and p.proname = 'no_ddl' and p.prosrc = v_body
      and not p.prosecdef and p.proconfig = array['search_path=""'] and r.rolsuper and o.rolsuper)
  then
    return;
  end if;
  -- First what would run. Then the rest, which fails where anything else is in the schema.
  drop event trigger if exists holdfast_no_ddl;
  drop function if exists holdfast_guard.no_ddl();
  drop schema if exists holdfast_guard;

  create schema holdfast_guard;
  comment on schema holdfast_guard is 'The superuser''s: what refuses DDL to holdfast_service.';
  revoke all on schema holdfast_guard from public;
  execute pg_catalog.format(
    'create function holdfast_guard.no_ddl() returns event_trigger language plpgsql '
    'set search_path = %L as %L', '', v_body);
  comment on function holdfast_guard.no_ddl is 'Refuses DDL to holdfast_service, before it asks for a lock.';
  revoke execute on function holdfast_guard.no_ddl from public;
  create event trigger holdfast_no_ddl on ddl_command_start execute function holdfast_guard.no_ddl();
  -- Always: in a session with session_replication_role = replica too.
  alter event trigger holdfast_no_ddl enable always;
end
$$;

-- What a database that came from PostgreSQL 14 or older leaves open: anybody may make objects in public. And
-- temporary tables, which the owner of the database has shut already if it was migrated.
do $$
begin
  if pg_catalog.has_schema_privilege('public', 'public', 'create') then
    revoke create on schema public from public;
  end if;
  if pg_catalog.has_database_privilege('public', pg_catalog.current_database(), 'temporary') then
    execute pg_catalog.format('revoke temporary on database %I from public', pg_catalog.current_database());
  end if;
end
$$;

-- Left as they are, and why:
--   pg_notify: the statements NOTIFY and LISTEN need no right, so there is none to take away.
--   pg_sleep: generate_series waits as well; statement_timeout and the shell bound both.
--   query_to_xml and its like, ts_stat: they run a text with the rights of the caller, who can run it anyway.
--   pg_current_snapshot, txid_current: how many transactions there are is in the xmin of one's own rows.
--   pg_reload_conf, pg_promote and their like: PostgreSQL keeps them shut already.
--   pg_create_logical_replication_slot and its like: they ask for REPLICATION themselves.
--   debug_print_plan and its like: anybody may set them, and a right to set can only be given.
--   ALTER ROLE of a login's own settings, ALTER DATABASE: no event trigger comes before them, and no right
--     forbids the first. Two such sessions can keep new connections to a database waiting while both last.
