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
