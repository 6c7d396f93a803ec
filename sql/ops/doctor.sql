create or replace function ops.doctor() returns table (checked text, state text, found text, fix text)
language sql
stable
set search_path = ''
set jit = off  -- compiling would take longer than looking
as $$
  with said as (
    select d.* from app_private.doctor_server as d
    union all select d.* from app_private.doctor_roles as d
    union all select d.* from app_private.doctor_memberships as d
    union all select d.* from app_private.doctor_settings as d
    union all select d.* from app_private.doctor_owners as d
    union all select d.* from app_private.doctor_isolation as d
    union all select d.* from app_private.doctor_rights as d
    union all select d.* from app_private.doctor_places as d
    union all select d.* from app_private.doctor_functions as d
    union all select d.* from app_private.doctor_languages as d
    union all select d.* from app_private.doctor_extensions as d
    union all select d.* from app_private.doctor_ddl as d
    union all select d.* from app_private.doctor_upkeep as d
  ), gathered as (
    select s.checked, bool_or(s.state = 'fault') as faulty, bool_or(s.state = 'warning') as doubtful,
           pg_catalog.string_agg(s.found, '; ' order by s.state, s.found) as found,
           pg_catalog.string_agg(distinct s.fix, E'\n') as fix
    from said as s
    group by s.checked
  )
  select c.checked, x.state, coalesce(g.found, c.asked), g.fix
  from app_private.doctor_checks as c
  full join gathered as g using (checked)
  cross join lateral (
    select case when g.faulty then 'fault' when g.doubtful then 'warning' else 'ok' end as state) as x
  order by pg_catalog.array_position(array['fault', 'warning', 'ok'], x.state), c.checked
$$;

comment on function ops.doctor is
  'Whether tenants are kept apart here as they should be: one row for each check, faults first. fault: '
  'isolation is broken, or the system does not work. warning: a superuser''s help is missing.';

grant execute on function ops.doctor to holdfast_ops;
