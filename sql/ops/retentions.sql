create or replace view ops.retentions as
select r.table_name, r.keep, count(m.part) as months_kept,
       min(m.month_start at time zone 'UTC')::date as oldest,
       (array_agg(m.part order by m.month_start))[1] as drops_next,
       date_trunc('second', min(m.month_end) + r.keep) as not_before
from app.retentions as r
left join app_private.partition_months as m on m.table_name = r.table_name
group by r.table_name, r.keep
order by r.table_name;

comment on view ops.retentions is
  'How long tables are kept: how many months there are of each, the oldest, and when app.maintain may drop it.';

grant select on ops.retentions to holdfast_ops;
