create or replace function app_private.ago(span interval) returns text
language sql
immutable
parallel safe
return case
  when span is null then null
  when span < interval '100 seconds' then pg_catalog.floor(extract(epoch from span)) || 's'
  when span < interval '100 minutes' then pg_catalog.floor(extract(epoch from span) / 60) || 'm'
  when span < interval '48 hours' then pg_catalog.floor(extract(epoch from span) / 3600) || 'h'
  else pg_catalog.floor(extract(epoch from span) / 86400) || 'd' end;

comment on function app_private.ago is 'A span of time in its largest unit, rounded down: 12s, 3m, 5h, 9d.';

grant execute on function app_private.ago to holdfast_system, holdfast_ops;
