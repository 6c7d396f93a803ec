create or replace function app_private.partitions_make(months_ahead integer default 3) returns integer
language plpgsql
security definer  -- the owner alone may add partitions
set search_path = ''
set timezone = 'UTC'
set lock_timeout = '3s'
as $$
declare
  v_missing record;
  v_made    integer := 0;
begin
  for v_missing in
    select c.oid::regclass as parent, m.month_start
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname = 'app'
    cross join pg_catalog.generate_series(
      pg_catalog.date_trunc('month', pg_catalog.now()) - interval '1 month',
      pg_catalog.date_trunc('month', pg_catalog.now()) + pg_catalog.make_interval(months => months_ahead),
      interval '1 month') as m (month_start)
    where c.relkind = 'p'
      and pg_catalog.to_regclass(pg_catalog.format('app.%I',
            c.relname || pg_catalog.to_char(m.month_start, '"_y"YYYY"m"MM'))) is null
    order by c.relname, m.month_start
  loop
    call app_private.partition_add(v_missing.parent, v_missing.month_start);
    v_made := v_made + 1;
  end loop;
  return v_made;
end
$$;

comment on function app_private.partitions_make is
  'Adds the missing monthly partitions, from last month to months_ahead; answers how many. Made months ahead, so that '
  'a lock it could not get within 3 s may be tried again an hour later.';

grant execute on function app_private.partitions_make to holdfast_system;
