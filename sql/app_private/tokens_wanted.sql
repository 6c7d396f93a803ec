set local role holdfast_system;

create or replace function app_private.tokens_wanted(run_ids uuid[], tenant_ids uuid[])
returns table (tenant_id uuid, run_id uuid, attempt integer, available_at timestamptz, priority smallint)
language plpgsql
stable
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
begin
  return query
  select r.tenant_id, r.id, r.attempt, r.available_at, r.priority
  from unnest(run_ids, tenant_ids) as w (run_id, tenant_id)
  join app.job_runs as r on r.tenant_id = w.tenant_id and r.id = w.run_id;
end
$$;

comment on function app_private.tokens_wanted is
  'What the tokens of these runs must say, among all tenants.';

grant execute on function app_private.tokens_wanted to holdfast_owner;

set local role holdfast_owner;
