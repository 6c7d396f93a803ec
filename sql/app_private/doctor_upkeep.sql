create or replace view app_private.doctor_upkeep as
with broken as (
  select count(*) as rules, min(l.rule || ' ' || l.object) as example from app_private.lint as l
), months as (
  select c.oid, c.oid::regclass::text as name, m.month
  from pg_catalog.pg_class as c
  cross join (values
    (pg_catalog.date_trunc('month', pg_catalog.now() at time zone 'UTC')),
    (pg_catalog.date_trunc('month', pg_catalog.now() at time zone 'UTC') + interval '1 month')) as m (month)
  where c.relnamespace = 'app'::regnamespace and c.relkind = 'p'
), keys as (
  select count(*) as used, count(*) filter (where k.not_after is null) as lasting,
         max(k.not_after) as ends_at,
         string_agg(k.kid::text, ', ' order by k.kid) filter (where k.binding = 'none') as unbound
  from app_private.ticket_keys as k
  where k.not_after is null or k.not_after > pg_catalog.now()
)
select 'lint' as checked, 'fault' as state,
       pg_catalog.format('%s broken, such as %s', b.rules, b.example) as found,
       '-- select * from app_private.lint; then mend each in its file of sql/.' as fix
from broken as b
where b.rules > 0
union all
-- What belongs to a month without its partition is refused: no run starts, no call is held.
select 'partitions', 'fault',
       pg_catalog.format('%s has none for %s', m.name, pg_catalog.to_char(m.month, 'YYYY-MM')),
       'select * from app.maintain();'
from months as m
where not exists (
  select from pg_catalog.pg_inherits as i
  join pg_catalog.pg_class as p on p.oid = i.inhrelid
  where i.inhparent = m.oid and p.relname ~ (pg_catalog.to_char(m.month, '"_y"YYYY"m"MM') || '$'))
union all
select 'ticket_keys', case when k.used = 0 then 'fault' else 'ok' end,
       pg_catalog.format('%s in use', k.used),
       case when k.used = 0 then '-- TICKET_KEY=… TICKET_KEY_ID=… npm run db:migrate' end
from keys as k
union all
select 'ticket_key_end', 'warning',
       pg_catalog.format('no ticket opens anything from %s on', k.ends_at at time zone 'UTC'),
       '-- TICKET_KEY=… TICKET_KEY_ID=… npm run db:migrate, with a new key and number'
from keys as k
where k.used > 0 and k.lasting = 0
union all
-- Right behind a transaction pooler, and nowhere else; the database cannot know which it is.
select 'ticket_binding', 'ok',
       pg_catalog.format('none for key %s: its tickets may fit every backend, as a pooler needs', k.unbound),
       null
from keys as k
where k.unbound is not null;

comment on view app_private.doctor_upkeep is
  'What is due: broken house rules, partitions of months to come, and the keys of tickets. No key is shown.';

grant select on app_private.doctor_upkeep to holdfast_ops;
