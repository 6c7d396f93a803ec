create or replace view app_private.doctor_server as
with server as (
  -- Below these, a hidden row can leak through ON CONFLICT; of a major version not listed, nothing is known.
  select pg_catalog.current_setting('server_version') as version,
         coalesce(bool_or(n.number >= f.floor), false) as safe
  from (values (pg_catalog.current_setting('server_version_num')::integer)) as n (number)
  left join (values (15, 150020), (16, 160016), (17, 170012), (18, 180007)) as f (major, floor)
    on f.major = n.number / 10000
)
select 'server_version' as checked, case when s.safe then 'ok' else 'fault' end as state,
       'PostgreSQL ' || s.version || case when s.safe then '' else ' can show a hidden row' end as found,
       case when not s.safe then '-- Install 15.20, 16.16, 17.12, 18.7 or later in these.' end as fix
from server as s
union all
select 'session_row_security', 'warning', 'off: the views of ops are refused here', 'set row_security = on;'
where pg_catalog.current_setting('row_security')::boolean is false;

comment on view app_private.doctor_server is
  'What ops.doctor() says about the server''s version and this session.';

grant select on app_private.doctor_server to holdfast_ops;
