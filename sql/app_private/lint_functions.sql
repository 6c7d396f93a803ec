create or replace view app_private.lint_functions as
with functions as (
  select p.oid, n.nspname, p.proname, p.prosecdef, p.provolatile, p.proparallel, p.proleakproof, p.prosrc,
         p.prosqlbody, p.proconfig, l.lanname, pg_catalog.pg_get_userbyid(p.proowner) as owner,
         coalesce(p.proargnames[1:2], '{}') as first_arguments,
         coalesce(pg_catalog.obj_description(p.oid, 'pg_proc'), '') as meaning
  from pg_catalog.pg_proc as p
  join pg_catalog.pg_namespace as n
    on n.oid = p.pronamespace and n.nspname in ('app', 'app_private', 'ops', 'tenant')
  join pg_catalog.pg_language as l on l.oid = p.prolang
)
select 'function_without_search_path' as rule, f.oid::regprocedure::text as object
from functions as f
where f.prosqlbody is null and not coalesce('search_path=""' = any (f.proconfig), false)
union all
select 'immutable_reads_the_tenant', f.oid::regprocedure::text
from functions as f
where f.provolatile = 'i' and f.prosrc ~* 'current_setting|current_tenant_id|enter\('
  and f.proname <> 'require'
union all
select 'tenant_not_parallel_restricted', f.oid::regprocedure::text
from functions as f
where f.proname in ('current_tenant_id', 'require', 'seal') and f.proparallel <> 'r'
union all
-- A contract function takes the tenant and its ticket, and enters with them before anything else.
select 'contract_does_not_enter', f.oid::regprocedure::text
from functions as f
where f.nspname = 'app' and f.first_arguments = '{tenant_id,ticket}' and f.proname <> 'enter'
  and not (f.lanname = 'plpgsql' and f.prosecdef
    and f.prosrc ~ 'begin\s+perform app\.enter\(tenant_id, ticket\);')
union all
select 'definer_ignores_tenant', f.oid::regprocedure::text
from functions as f
where f.prosecdef and f.owner <> 'holdfast_system' and f.first_arguments <> '{tenant_id,ticket}'
  and f.proname not in ('current_tenant_id', 'ticket_check', 'ticket_binding', 'migration_applied',
    'job_kinds_missing', 'tokens_add', 'tokens_missing', 'tokens_unlock', 'token_places', 'tokens_count',
    'partitions_make', 'partitions_drop', 'maintain', 'become', 'ticket_key_set', 'ticket_key_retire')
union all
-- What sees all tenants says so, and turns row security on so that its own policy applies.
select 'system_function_unmarked', f.oid::regprocedure::text
from functions as f
where f.owner = 'holdfast_system' and f.prosecdef
  and not (f.meaning ~ 'all tenants' and coalesce('row_security=on' = any (f.proconfig), false))
union all
-- A new one is a new way past the policies: it is added here, and to the list of its test, with open eyes.
select 'system_function_unlisted', f.oid::regprocedure::text
from functions as f
where f.owner = 'holdfast_system'
  and f.nspname || '.' || f.proname not in (
    'app.cost_import_sweep', 'app.job_admit', 'app.job_claim', 'app.job_complete_many', 'app.job_metrics', 'app.job_reap',
    'app.job_sweep', 'app.llm_check', 'app.llm_expire', 'app.llm_presumed_resolve', 'app.llm_sweep', 'app.schedule_tick',
    'app.tenant_find', 'app.tiers_derive', 'app.tokens_repair', 'app.worker_beat', 'app.worker_seen', 'app.worker_stop',
    'app.workers_reap', 'app_private.partition_needed', 'app_private.tenant_check', 'ops.cost_source_drop',
    'ops.cost_source_set', 'ops.job_cancel', 'ops.job_discard', 'ops.job_enqueue',
    'ops.job_kind_set', 'ops.job_pause', 'ops.job_replay', 'ops.job_resume', 'ops.job_show',
    'ops.llm_price_override_end', 'ops.llm_price_override_set', 'ops.llm_price_set', 'ops.llm_prices_load',
    'ops.llm_write_off', 'ops.retention_set', 'ops.schedule_set', 'ops.set_limit', 'ops.tenant_add', 'ops.tenant_set',
    'ops.tier_set', 'ops.why_waiting')
union all
-- It would be run on hidden rows, before the policy.
select 'function_leakproof', f.oid::regprocedure::text
from functions as f
where f.proleakproof
union all
select 'function_for_everybody', f.oid::regprocedure::text
from functions as f
where pg_catalog.has_function_privilege('public', f.oid, 'execute')
union all
select 'function_overloaded', min(f.oid::regprocedure::text)
from functions as f
group by f.nspname, f.proname
having count(*) > 1;

comment on view app_private.lint_functions is
  'Functions that could be captured, that skip the ticket, or that see all tenants without saying so.';
