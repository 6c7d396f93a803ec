create or replace function app_private.partitions_drop() returns integer
language plpgsql
security definer  -- the owner alone may drop partitions
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_month   record;
  v_left    regclass[] := array[]::regclass[];
  v_dropped integer := 0;
begin
  for v_month in
    select m.*, r.keep
    from app.retentions as r
    join app_private.partition_months as m on m.table_name = r.table_name
    where m.month_end <= pg_catalog.now() - r.keep
    order by m.table_name, m.month_start
  loop
    -- Asked before the lock, so that a month that is needed costs its table nothing; and under it, for it may be by then.
    continue when v_month.parent = any (v_left) or app_private.partition_needed(
      v_month.table_name, v_month.month_start, v_month.month_end, v_month.keep);
    begin
      execute pg_catalog.format('lock table %s in access exclusive mode', v_month.parent);
      -- A table that is locked stays so until the end: from then on, nothing is waited for.
      perform pg_catalog.set_config('lock_timeout', '100ms', true);
      -- While the lock was waited for, another caller may have dropped it.
      if exists (select from pg_catalog.pg_class as c where c.oid = v_month.part)
        and not app_private.partition_needed(
          v_month.table_name, v_month.month_start, v_month.month_end, v_month.keep)
      then
        execute pg_catalog.format('drop table %s', v_month.part);
        v_dropped := v_dropped + 1;
      end if;
    exception
      when lock_not_available or deadlock_detected then
        v_left := v_left || v_month.parent;
        raise warning 'app_private.partitions_drop: % stayed locked and is left for the next time',
          v_month.parent;
    end;
  end loop;
  return v_dropped;
end
$$;

comment on function app_private.partitions_drop is
  'Drops the months of the tables in app.retentions whose rows were all made longer than keep ago; answers how many. A month '
  'of runs stays whole while partition_needed says so. A table that stays locked for 3 s is left, with a warning.';
