create or replace function app_private.period_begin(period text, local_at timestamp, anchor_day smallint)
returns timestamp
language sql
immutable
parallel safe
return case
  when period <> 'month' then pg_catalog.date_trunc(period, local_at)
  when local_at >= app_private.month_anchor(local_at, anchor_day)
    then app_private.month_anchor(local_at, anchor_day)
  else app_private.month_anchor(
    local_at - pg_catalog.make_interval(days => extract(day from local_at)::integer), anchor_day)
end;

comment on function app_private.period_begin is
  'When the day, week or month around a local time began, in local time.';

grant execute on function app_private.period_begin to holdfast_system;
