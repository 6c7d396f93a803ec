create or replace function app_private.partitions_make(months_ahead integer default 3) returns integer
language plpgsql
security definer  -- the owner alone may add partitions
set search_path = ''
set timezone = 'UTC'
set lock_timeout = '3s'
as $$
declare
  v_missing record;
  v_month   timestamptz;
  v_made    integer := 0;
begin
  for v_missing in
    select c.oid::regclass as parent, array_agg(m.month_start order by m.month_start) as months
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname = 'app'
    cross join pg_catalog.generate_series(
      pg_catalog.date_trunc('month', pg_catalog.now()) - interval '1 month',
      pg_catalog.date_trunc('month', pg_catalog.now()) + pg_catalog.make_interval(months => months_ahead),
      interval '1 month') as m (month_start)
    where c.relkind = 'p'
      and pg_catalog.to_regclass(pg_catalog.format('app.%I',
            c.relname || pg_catalog.to_char(m.month_start, '"_y"YYYY"m"MM'))) is null
    group by c.oid, c.relname
    order by c.relname
  loop
    begin
      foreach v_month in array v_missing.months loop
        call app_private.partition_add(v_missing.parent, v_month);
      end loop;
      v_made := v_made + pg_catalog.cardinality(v_missing.months);
    exception
      when lock_not_available or deadlock_detected then
        raise warning 'app_private.partitions_make: % stayed locked and is left for the next time',
          v_missing.parent;
    end;
    -- A table that has its month stays locked until the end: from then on, nothing is waited for.
    if v_made > 0 then
      perform pg_catalog.set_config('lock_timeout', '100ms', true);
    end if;
  end loop;
  return v_made;
end
$$;

comment on function app_private.partitions_make is
  'Adds the missing monthly partitions, from last month to months_ahead; answers how many. A table that stays locked for '
  '3 s is left, with a warning: the others are made, and it is tried again an hour later, for they are made months ahead.';

grant execute on function app_private.partitions_make to holdfast_system;
