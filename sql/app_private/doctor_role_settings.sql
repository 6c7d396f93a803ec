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
