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
