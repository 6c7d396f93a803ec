-- What the worker may do in graphile-worker's own schema. Run as holdfast_owner, after each of its upgrades.
--
-- graphile-worker puts row level security on its tables and writes no policy: only their owner sees a row.
-- Here the worker is let in by name: it may fetch, finish and queue tokens. It may not create, alter or
-- truncate anything, so the schema is upgraded by holdfast_admin alone. The queue's connections say
-- row_security = on; every other connection of holdfast_worker keeps it off until a tenant is entered, and
-- is refused here rather than shown nothing.

grant usage on schema graphile_worker to holdfast_worker;

-- At its start graphile-worker compares this list with its own; nothing is written when they agree.
grant select on graphile_worker.migrations to holdfast_worker;

grant execute on all functions in schema graphile_worker to holdfast_worker;
grant usage, select on all sequences in schema graphile_worker to holdfast_worker;

-- Its tables by their prefix, so that one which an upgrade adds is not forgotten.
do $$
declare
  v_table regclass;
begin
  for v_table in
    select c.oid
    from pg_catalog.pg_class as c
    where c.relnamespace = 'graphile_worker'::regnamespace
      and c.relkind in ('r', 'p')
      and pg_catalog.starts_with(c.relname::text, '_private_')
    order by c.relname
  loop
    execute pg_catalog.format('grant select, insert, update, delete on %s to holdfast_worker', v_table);

    -- Made once: a policy that is there already is left alone, for making it again would lock a busy queue.
    if not exists (
      select from pg_catalog.pg_policy as p
      where p.polrelid = v_table
        and p.polname = 'worker_all'
    ) then
      execute pg_catalog.format(
        'create policy worker_all on %s to holdfast_worker using (true) with check (true)', v_table);
    end if;
  end loop;
end
$$;
