-- The roles of a cluster. Idempotent; needs CREATEROLE, no superuser. Passwords are not set here.
-- `npm start` and the tests run it; on your own server a DBA does, once, before the database is migrated.
do $$
declare
  v_role record;
begin
  for v_role in
    select * from (values
      ('holdfast_owner',   'nologin noinherit',
       'Owns the schemas, tables and contract functions; row security binds it too.'),
      ('holdfast_system',  'nologin',           'Owns the few functions and views that see all tenants.'),
      ('holdfast_tenant',  'nologin',           'Selects under row security, inside a transaction that entered.'),
      ('holdfast_admin',   'login noinherit',   'Migrates, with options=-c role=holdfast_owner.'),
      ('holdfast_service', 'login noinherit',
       'The HTTP endpoint: executes contract functions with a ticket, and nothing that sees another tenant.'),
      ('holdfast_worker',  'login noinherit',
       'The worker: executes contract functions, those for all tenants too. Never becomes a tenant.'),
      ('holdfast_ops',     'login noinherit',   'People in psql: the schema ops.'),
      ('holdfast_metrics', 'nologin',           'Reads the metric views alone.')
    ) as r (name, attributes, meaning)
  loop
    if not exists (select from pg_catalog.pg_roles as p where p.rolname = v_role.name) then
      execute pg_catalog.format('create role %I %s', v_role.name, v_role.attributes);
    end if;
    execute pg_catalog.format('comment on role %I is %L', v_role.name, v_role.meaning);
  end loop;

  -- For the login itself: "in database" would be lost in a clone, and a pooler refuses what a client asks for.
  for v_role in
    select r.name, s.setting, s.value
    from (values ('holdfast_service'), ('holdfast_worker')) as r (name)
    cross join (values
      ('row_security', 'off'),                          -- until app.enter turns it on for its transaction
      ('statement_timeout', '15s'),
      ('idle_in_transaction_session_timeout', '15s'),
      ('client_connection_check_interval', '1s'),
      ('log_parameter_max_length_on_error', '0'),       -- a ticket is a parameter
      ('jit', 'off')                                    -- while a plan is compiled, no limit of time is looked at
    ) as s (setting, value)
  loop
    execute pg_catalog.format('alter role %I set %I = %L', v_role.name, v_role.setting, v_role.value);
  end loop;
end
$$;

grant holdfast_system to holdfast_owner;
grant holdfast_owner  to holdfast_admin;
-- Whoever may become a tenant may run SQL that is not ours, and go back from there to what it was: so the worker,
-- which reaches all tenants, may not. People in psql may: they see all tenants anyhow.
grant holdfast_tenant to holdfast_service, holdfast_ops;

-- Who makes the database for holdfast_owner must be a member of it; a superuser need not be.
do $$
begin
  -- It was a member in the first version.
  if pg_catalog.pg_has_role('holdfast_worker', 'holdfast_tenant', 'member') then
    revoke holdfast_tenant from holdfast_worker;
  end if;
  if not (select r.rolsuper from pg_catalog.pg_roles as r where r.rolname = current_user) then
    execute pg_catalog.format('grant holdfast_owner to %I', current_user);
  end if;
end
$$;
