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
