create or replace function app_private.month_anchor(local_at timestamp, anchor_day smallint) returns timestamp
language sql
immutable
parallel safe
return pg_catalog.date_trunc('month', local_at) + pg_catalog.make_interval(days => least(anchor_day::integer,
  extract(day from pg_catalog.date_trunc('month', local_at) + interval '1 month -1 day')::integer) - 1);

comment on function app_private.month_anchor is
  'Midnight of the anchor day in the month of a local time; its last day where the month is shorter.';

grant execute on function app_private.month_anchor to holdfast_system;
