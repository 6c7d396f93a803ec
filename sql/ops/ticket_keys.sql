create or replace view ops.ticket_keys as
select k.kid,
       case when k.not_after is null then 'in use'
            when k.not_after > pg_catalog.clock_timestamp() then 'ending'
            else 'retired' end as state,
       k.binding, k.not_after
from app_private.ticket_keys as k
order by k.kid;

comment on view ops.ticket_keys is
  'The keys that tickets are verified with, without the keys: their state, and whether their tickets name a backend. '
  'A new one comes with npm run db:migrate, under a new TICKET_KEY_ID.';

grant select on ops.ticket_keys to holdfast_ops;
