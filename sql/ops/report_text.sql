set local role holdfast_system;

create or replace view ops.report_text as
select r.tenant,
       r.tier || ' ' || round(extract(epoch from t.every) / 3600, 1)::float8 || ' h' as tier,
       to_char(r.rows, 'FM999,999,999,999') as rows,
       to_char(r.flags, 'FM999,999,999,999') as flags,
       r.findings::text as findings,
       coalesce(to_char(r.saving, 'FM999,999,999,999,990') || ' ' || r.currency, '-') as saving,
       '$' || to_char(r.reserved, 'FM999,999,990.0000') as reserved,
       '$' || to_char(r.settled, 'FM999,999,990.0000') as settled,
       case when r."left" is null then 'no budget' when r."left" = 'infinity' then 'unlimited'
         else '$' || to_char(r."left", 'FM999,999,990.00') end as "left",
       r.state
from ops.report as r
join app.tiers as t on t.tier = r.tier
order by t.rank, r.tenant;

comment on view ops.report_text is 'ops.report as people read it: thousands, currencies, dollars.';

grant select on ops.report_text to holdfast_ops;

set local role holdfast_owner;
