set local role holdfast_system;

create or replace view ops.reservations_presumed as
select t.name as tenant, r.model,
       trim_scale(greatest(0, r.estimated_cost_nanousd - r.settled_nanousd) * 0.000000001) as amount_usd,
       date_trunc('second', r.since) as since,
       app_private.ago(pg_catalog.clock_timestamp() - r.since) as age, r.reason,
       t.presumed_policy as policy,
       case t.presumed_policy
         when 'release_after' then r.since + t.presumed_after
         when 'charge_worst_case' then greatest(r.since, e.period_end) end as policy_ends_at,
       case r.status
         when 'PRESUMED' then pg_catalog.format('select * from ops.llm_write_off(%L, reason => ''…'')', r.id)
         else 'select * from app.llm_expire()' end as fix,
       r.provider, r.run_id, r.id
from (
  select x.*, x.presumed_at as since
  from app.llm_reservations as x
  where x.status = 'PRESUMED'
  union all
  select x.*, x.expires_at
  from app.llm_reservations as x
  where x.status = 'RESERVED' and x.expires_at < pg_catalog.clock_timestamp()) as r
join app.tenants as t on t.tenant_id = r.tenant_id
cross join lateral (
  select max(p.period_end) filter (where p.period_end <> 'infinity') as period_end
  from app.llm_reservation_budgets as h
  join app.llm_budget_periods as p
    on p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start
  where h.tenant_id = r.tenant_id and h.reservation_id = r.id) as e
order by r.since, r.id;

comment on view ops.reservations_presumed is
  'Holds whose outcome is unknown, the oldest first: what still counts against the budget, since when and why, when the '
  'policy of the tenant ends it (null: never), and what to type when the bill shows that the call was not charged. A call that '
  'was charged is settled by POST /v1/reservations/:id/settle, however late. A hold that is past its time is shown before '
  'app.llm_expire has come to it.';

grant select on ops.reservations_presumed to holdfast_ops;

set local role holdfast_owner;
