set local role holdfast_system;

create or replace function ops.job_kind_set(
  kind text, reason text, timeout_seconds integer default null, max_retries integer default null,
  backoff_base_ms integer default null, backoff_cap_ms integer default null,
  non_retryable_codes text[] default null, description text default null, max_running integer default null,
  max_waiting integer default null,
  rate_per_minute integer default null, rate_burst integer default null, tenant_enqueues boolean default null,
  input_schema jsonb default null, dry_run boolean default false)
returns table (setting text, before text, after text)
language plpgsql
security definer  -- kinds are for all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_before jsonb;
  v_after  app.job_kinds;
begin
  perform app_private.reason_check(reason);

  select pg_catalog.to_jsonb(k) into v_before
  from app.job_kinds as k where k.kind = job_kind_set.kind for no key update;
  v_after := app_private.job_kind_with(kind, pg_catalog.jsonb_build_object(
    'timeout_seconds', timeout_seconds, 'max_retries', max_retries, 'backoff_base_ms', backoff_base_ms,
    'backoff_cap_ms', backoff_cap_ms, 'non_retryable_codes', non_retryable_codes, 'description', description,
    'max_running', max_running, 'max_waiting', max_waiting, 'rate_per_minute', rate_per_minute,
    'rate_burst', rate_burst, 'tenant_enqueues', tenant_enqueues, 'input_schema', input_schema));

  if dry_run is not true and v_before is distinct from pg_catalog.to_jsonb(v_after) then
    insert into app.job_kinds as k select v_after.*
    on conflict on constraint job_kinds_pkey do update
    set (timeout_seconds, max_retries, backoff_base_ms, backoff_cap_ms, non_retryable_codes, description,
         max_running, max_waiting, rate_per_minute, rate_burst, tenant_enqueues, input_schema)
      = (v_after.timeout_seconds, v_after.max_retries, v_after.backoff_base_ms, v_after.backoff_cap_ms,
         v_after.non_retryable_codes, v_after.description, v_after.max_running, v_after.max_waiting,
         v_after.rate_per_minute, v_after.rate_burst, v_after.tenant_enqueues, v_after.input_schema);
    insert into ops.audit_log (action, subject, reason, before, after)
    values ('job_kind_set', kind, job_kind_set.reason, v_before, pg_catalog.to_jsonb(v_after));
  end if;

  return query
  select a.key, b.value, a.value
  from pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(v_after)) as a
  left join pg_catalog.jsonb_each_text(v_before) as b on b.key = a.key
  where a.value is distinct from b.value
  order by a.key;
end
$$;

comment on function ops.job_kind_set is
  'Changes those settings of a kind that are given, or makes one that has a description, for all tenants; audited; answers what '
  'changes. 0 takes max_running or rate_per_minute away. dry_run shows it without doing it. Raises JB102, OP101, OP102.';

grant execute on function ops.job_kind_set to holdfast_ops;

set local role holdfast_owner;
