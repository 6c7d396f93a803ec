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
       'The HTTP endpoint: executes contract functions, has no right on a table.'),
      ('holdfast_worker',  'login noinherit',   'The worker: executes contract functions, has no right on a table.'),
      ('holdfast_ops',     'login noinherit',   'People in psql: the schema ops.'),
      ('holdfast_metrics', 'nologin',           'Reads the metric views alone.')
    ) as r (name, attributes, meaning)
  loop
    if not exists (select from pg_catalog.pg_roles as p where p.rolname = v_role.name) then
      execute pg_catalog.format('create role %I %s', v_role.name, v_role.attributes);
    end if;
    execute pg_catalog.format('comment on role %I is %L', v_role.name, v_role.meaning);
  end loop;

  -- For the login alone: "in database" would be lost in a clone, and enter() turns it on for its transaction.
  for v_role in select * from (values ('holdfast_service'), ('holdfast_worker')) as r (name)
  loop
    execute pg_catalog.format('alter role %I set row_security = off', v_role.name);
    execute pg_catalog.format('alter role %I set client_connection_check_interval = %L', v_role.name, '1s');
  end loop;
end
$$;

grant holdfast_system to holdfast_owner;
grant holdfast_owner  to holdfast_admin;
grant holdfast_tenant to holdfast_service, holdfast_worker;

-- Who makes the database for holdfast_owner must be a member of it; a superuser need not be.
do $$
begin
  if not (select r.rolsuper from pg_catalog.pg_roles as r where r.rolname = current_user) then
    execute pg_catalog.format('grant holdfast_owner to %I', current_user);
  end if;
end
$$;
