create or replace function app_private.cost_import_counts(tenant_id uuid, import_id uuid)
returns table (line_count bigint, flagged_count bigint, flags jsonb)
language sql
stable
set search_path = ''
as $$
  with lines as (
    select l.dq_flags from app.cost_lines as l where l.tenant_id = $1 and l.import_id = $2
  ),
  by_flag as (
    select f.flag, count(*) as n
    from lines as l cross join lateral unnest(l.dq_flags) as f (flag)
    group by f.flag
  )
  select (select count(*) from lines),
         (select count(*) from lines as l where l.dq_flags <> '{}'),
         (select coalesce(jsonb_object_agg(b.flag, b.n), '{}') from by_flag as b)
$$;

comment on function app_private.cost_import_counts is 'Lines, flagged lines, and lines per flag of one import.';
