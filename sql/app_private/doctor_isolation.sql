create or replace view app_private.doctor_isolation as
-- The queue's own tables have no tenant in them; row security keeps all but the worker out.
select 'row_security_forced' as checked, 'fault' as state,
       c.oid::regclass || case when c.relrowsecurity then ': not its owner' else ': nobody' end as found,
       pg_catalog.format('alter table %s enable row level security%s;', c.oid::regclass,
         case when t.ours then ', force row level security' end) as fix
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
cross join lateral (
  select n.nspname in ('app', 'app_private', 'ops') and exists (
      select from pg_catalog.pg_attribute as a
      where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped) as ours,
    n.nspname = 'graphile_worker' and pg_catalog.starts_with(c.relname::text, '_private_') as theirs) as t
where c.relkind in ('r', 'p')
  and ((t.ours and not (c.relrowsecurity and c.relforcerowsecurity)) or (t.theirs and not c.relrowsecurity))
union all
-- Policies are OR-ed, so one for everybody goes before all others. The lint knows which ours must be.
select 'policies', 'fault',
       pg_catalog.format('%s has %s for %s', p.polrelid::regclass, p.polname,
         case when 0 = any (p.polroles) then 'everybody' else p.polroles::regrole[]::text end),
       pg_catalog.format('drop policy %I on %s;', p.polname, p.polrelid::regclass)
from pg_catalog.pg_policy as p
join pg_catalog.pg_class as c on c.oid = p.polrelid
where 0 = any (p.polroles)
  or (c.relnamespace = pg_catalog.to_regnamespace('graphile_worker')
    and p.polroles <> array[pg_catalog.to_regrole('holdfast_worker')::oid]);

comment on view app_private.doctor_isolation is
  'Tables of tenants, and of the queue, that row security does not bind, and policies that bind too little.';

grant select on app_private.doctor_isolation to holdfast_ops;
