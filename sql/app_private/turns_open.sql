create or replace function app_private.turns_open(tenant_ids uuid[])
returns table (tenant_id uuid, turns bigint)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
as $$
begin
  return query
  select r.tenant_id, count(distinct r.slot)
  from app.job_runs as r
  join app.job_kinds as k on k.kind = r.kind
  where (k.paused_at is null or not exists (
      select from app.job_kinds as e
      where e.slot_order < k.slot_order
        and (e.kind <> 'cost_import'
          or exists (select from app.cost_sources as s where s.tenant_id = r.tenant_id))))
    and r.tenant_id = any (turns_open.tenant_ids) and r.state in ('PENDING', 'RUNNING', 'FAILED')
    and r.slot is not null
  group by r.tenant_id;
end
$$;

comment on function app_private.turns_open is
  'How many turns of these tenants have not ended: those with a run of any kind that has not, but for kinds that are paused '
  'and come after others: their pause must not keep the others from the next turn. No row for a tenant without.';

grant execute on function app_private.turns_open to holdfast_system;
