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
