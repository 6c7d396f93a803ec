create or replace view app_private.partition_months as
select p.relname::text as table_name, p.oid::regclass as parent, c.oid::regclass as part,
       m.month_start, e.month_end
from pg_catalog.pg_inherits as i
join pg_catalog.pg_class as p
  on p.oid = i.inhparent and p.relkind = 'p' and p.relnamespace = 'app'::regnamespace
join pg_catalog.pg_class as c
  on c.oid = i.inhrelid and c.relnamespace = p.relnamespace and c.relname ~ '_y\d{4}m(0[1-9]|1[0-2])$'
cross join lateral (
  select pg_catalog.make_timestamptz(pg_catalog.left(pg_catalog.right(c.relname::text, 7), 4)::integer,
           pg_catalog.right(c.relname::text, 2)::integer, 1, 0, 0, 0, 'UTC') as month_start) as m
cross join lateral (
  select (m.month_start at time zone 'UTC' + interval '1 month') at time zone 'UTC' as month_end) as e
-- Only what partition_add has made, and what its name says.
where c.relname = p.relname || pg_catalog.to_char(m.month_start at time zone 'UTC', '"_y"YYYY"m"MM')
  and pg_catalog.pg_get_expr(c.relpartbound, c.oid) = pg_catalog.format('FOR VALUES FROM (%L) TO (%L)',
        app_private.uuid_v7_floor(m.month_start), app_private.uuid_v7_floor(e.month_end));

comment on view app_private.partition_months is
  'The monthly partitions, and which month (UTC) each holds. One whose name and bounds do not agree is not here.';

grant select on app_private.partition_months to holdfast_system;
