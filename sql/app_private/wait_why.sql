create or replace function app_private.wait_why(
  cause text, kind text, tier text, used bigint, size integer, error_code text, at timestamptz) returns text
language sql
stable
parallel safe
return case cause
  when 'suspended' then 'its tenant is suspended'
  when 'tenant_paused' then 'its tenant is paused'
  when 'kind_paused' then 'the kind ' || kind || ' is paused'
  when 'cohort_paused' then 'the cohort ' || tier || ' is paused'
  when 'later' then 'due at ' || pg_catalog.date_trunc('second', at)
  when 'retry' then 'next try at ' || pg_catalog.date_trunc('second', at) || ', after ' || error_code
  when 'rate' then 'the rate of its kind: next start at ' || pg_catalog.date_trunc('second', at)
  when 'no_worker' then 'no worker lives'
  when 'no_worker_of_kind' then 'no living worker serves ' || kind
  when 'places' then 'its tenant has all places of this kind taken: ' || used || ' of ' || size
  when 'unadmitted' then 'it has a place, and its token within seconds'
  when 'token_lost' then 'its token was lost: queued again within 15 s'
  when 'queued' then 'all workers are busy: it waits in the queue' end;

comment on function app_private.wait_why is
  'In words why a run waits, by the cause that app_private.run_waits found.';

grant execute on function app_private.wait_why to holdfast_system, holdfast_ops;
