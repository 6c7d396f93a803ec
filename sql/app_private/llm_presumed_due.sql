create or replace function app_private.llm_presumed_due(max_rows integer)
returns table (tenant_id uuid, id uuid, policy text)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select d.tenant_id, d.id, d.presumed_policy
  from (
    select t.tenant_id, x.id, t.presumed_policy, x.presumed_at,
           row_number() over (partition by t.tenant_id order by x.presumed_at) as place
    from app.tenants as t
    join app.llm_reservations as x on x.tenant_id = t.tenant_id and x.status = 'PRESUMED'
    where case t.presumed_policy
            when 'hold' then false
            when 'release_after' then x.presumed_at < pg_catalog.clock_timestamp() - t.presumed_after
            -- Its last period but an endless one is over.
            else not exists (
              select from app.llm_reservation_budgets as h
              join app.llm_budget_periods as p
                on p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start
              where h.tenant_id = x.tenant_id and h.reservation_id = x.id
                and p.period_end > pg_catalog.clock_timestamp() and p.period_end <> 'infinity') end) as d
  order by d.place, d.presumed_at
  limit max_rows;
end
$$;

comment on function app_private.llm_presumed_due is

  'PRESUMED holds for which the policy of their tenant says that they are to end now, the oldest of each tenant first: what '
  'one tenant keeps locked must not fill a batch.';

grant execute on function app_private.llm_presumed_due to holdfast_system;
