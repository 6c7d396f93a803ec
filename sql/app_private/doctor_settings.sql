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
