create or replace function app.findings_detect(tenant_id uuid, ticket text, run_id uuid, attempt integer)
returns table (findings integer, open integer)
language plpgsql
security definer  -- the shell may not write findings
set search_path = ''
as $$
declare
  v_found integer;
begin
  perform app.enter(tenant_id, ticket);
  v_found := app_private.detectors_run(tenant_id, run_id, attempt);

  return query
  select v_found, count(*)::integer
  from app.findings as f
  where f.tenant_id = findings_detect.tenant_id and f.state in ('open', 'acknowledged');
end
$$;

comment on function app.findings_detect is
  'Runs every detector over the published costs of the tenant and keeps the findings, which remember this run. Answers how '
  'many were found, and how many stand: dismissed and snoozed ones do not. Raises JB101, JB201 when the attempt no longer '
  'runs.';

grant execute on function app.findings_detect to holdfast_service;
