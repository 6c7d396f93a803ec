create or replace function app_private.job_kind_fault(kind app.job_kinds) returns text
language sql
immutable
parallel safe
set search_path = ''
as $$
  select case
    when coalesce((kind).kind, '') !~ '^[a-z][a-z0-9_]{0,62}$' then 'kind'
    when pg_catalog.length(pg_catalog.btrim(coalesce((kind).description, ''))) not between 3 and 500
      then 'description'
    when (kind).timeout_seconds not between 1 and 86400 then 'timeout_seconds'
    when (kind).max_retries not between 0 and 100 then 'max_retries'
    when (kind).backoff_base_ms not between 1 and 86400000 then 'backoff_base_ms'
    when (kind).backoff_cap_ms not between (kind).backoff_base_ms and 86400000 then 'backoff_cap_ms'
    when pg_catalog.cardinality((kind).non_retryable_codes) > 100
      or pg_catalog.array_position((kind).non_retryable_codes, null) is not null then 'non_retryable_codes'
    when (kind).max_running not between 1 and 1000 then 'max_running'
    when (kind).max_waiting not between 1 and 10000000 then 'max_waiting'
    when (kind).rate_per_minute not between 1 and 60000 then 'rate_per_minute'
    when (kind).rate_burst not between 1 and 10000 then 'rate_burst'
    when app_private.json_schema_fault((kind).input_schema) is not null
      then 'input_schema: ' || app_private.json_schema_fault((kind).input_schema) end
$$;

comment on function app_private.job_kind_fault is
  'Which setting of a kind is not one that it may have, and for its schema which part; null when it may be kept.';

grant execute on function app_private.job_kind_fault to holdfast_system;
