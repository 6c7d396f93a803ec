set local role holdfast_system;

create or replace view app_private.upkeep_gauges as
with tables as (
  -- All months of a table are one; the age is that of the one which needs a vacuum most.
  select coalesce(p.relname, s.relname) as relname, s.n_dead_tup, s.last_autovacuum
  from pg_catalog.pg_stat_all_tables as s
  left join pg_catalog.pg_inherits as i on i.inhrelid = s.relid
  left join pg_catalog.pg_class as p on p.oid = i.inhparent
  where (s.schemaname = 'graphile_worker' and s.relname in ('_private_jobs', '_private_job_queues'))
    or (s.schemaname = 'app'
      and coalesce(p.relname, s.relname) in ('job_runs', 'job_run_events', 'job_gates', 'job_slots')
      and s.relid not in (select t.partrelid from pg_catalog.pg_partitioned_table as t))
)
select 'holdfast_table_dead_tuples' as name, pg_catalog.jsonb_build_object('table', t.relname) as labels,
       sum(t.n_dead_tup)::double precision as value
from tables as t
group by t.relname
union all
select 'holdfast_table_vacuum_age_seconds', pg_catalog.jsonb_build_object('table', t.relname),
       extract(epoch from pg_catalog.now() - (array_agg(t.last_autovacuum order by t.n_dead_tup desc))[1])
from tables as t
group by t.relname
having (array_agg(t.last_autovacuum order by t.n_dead_tup desc))[1] is not null
union all
-- What other logins read is hidden from this one, unless it may read all statistics: those that write show themselves.
select 'holdfast_oldest_xmin_age', '{}', greatest(
  pg_catalog.pg_snapshot_xmax(n.snapshot)::text::numeric
    - pg_catalog.pg_snapshot_xmin(n.snapshot)::text::numeric,
  (select max(pg_catalog.age(s.xmin)) from pg_catalog.pg_replication_slots as s),
  (select max(pg_catalog.age(p.transaction)) from pg_catalog.pg_prepared_xacts as p),
  (select max(pg_catalog.age(a.backend_xmin)) from pg_catalog.pg_stat_activity as a))
from (select pg_catalog.pg_current_snapshot() as snapshot) as n
union all
select 'holdfast_database_deadlocks', '{}', d.deadlocks
from pg_catalog.pg_stat_database as d
where d.datname = pg_catalog.current_database();

comment on view app_private.upkeep_gauges is
  'What makes a queue in a database slow: dead rows of its tables and how long ago a vacuum was (no row: never), transactions '
  'since the oldest snapshot that is known, and deadlocks since the statistics were reset.';

set local role holdfast_owner;
