create or replace view app_private.doctor_function_groups as
with groups (checked, state, pattern, kept_for) as (
  -- The same as in superuser.sql, where each is explained.
  values
    ('signals', 'warning', '^pg_(cancel|terminate)_backend$', 'pg_signal_backend'),
    ('activity', 'warning', '^(pg_stat_get_activity|pg_stat_get_backend_.*|pg_lock_status|pg_blocking_pids'
       '|pg_safe_snapshot_blocking_pids|pg_isolation_test_session_is_blocked)$',
     'pg_read_all_stats, holdfast_ops, holdfast_metrics, holdfast_owner, holdfast_system'),
    ('volume', 'warning', '^(pg_stat_get_(?!activity$|backend_).*|pg_(current|last)_wal_.*'
       '|pg_last_xact_replay_timestamp|pg_last_committed_xact|pg_xact_commit_timestamp.*'
       '|pg_control_checkpoint|pg_get_replication_slots'
       '|pg_available_wal_summaries|pg_wal_summary_contents|pg_get_wal_summarizer_state'
       '|pg_(relation|table|indexes|total_relation|database|tablespace)_size)$',
     'pg_read_all_stats, holdfast_ops, holdfast_metrics, holdfast_owner, holdfast_system, '
       'holdfast_replicator'),
    ('advisory_locks', 'warning', '^pg_(try_)?advisory_.*$', 'holdfast_owner, holdfast_admin'),
    ('large_objects', 'warning', '^(lo_(?!import$|export$).*|loread|lowrite)$', null),
    ('wal_messages', 'warning', '^pg_logical_emit_message$', null),
    ('exported_snapshots', 'warning', '^pg_export_snapshot$', 'holdfast_backup'),
    -- PostgreSQL keeps these to itself; somebody gave them away.
    ('server_files', 'fault', '^(pg_read_(binary_)?file|pg_stat_file|pg_ls_.*|lo_import|lo_export)$', null)
)
select g.checked, g.state, g.kept_for, p.oid,
       coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) as acl
from groups as g
join pg_catalog.pg_proc as p
  on p.pronamespace = 'pg_catalog'::regnamespace
  and p.proname ~ '^(pg_|lo)'  -- once, before the patterns are tried on each
  and p.proname ~ g.pattern;

comment on view app_private.doctor_function_groups is
  'The functions of PostgreSQL that superuser.sql takes from everybody, by the check of ops.doctor() that asks '
  'for them, and who keeps them.';
