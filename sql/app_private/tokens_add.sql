create or replace function app_private.tokens_add(tokens app_private.token[]) returns integer
language plpgsql
security definer  -- the queue belongs to the owner
set search_path = ''
as $$
declare
  v_left   app_private.token[] := tokens;
  v_queued text[];
begin
  for v_try in 1 .. 3 loop
    v_queued := array(
      select j.key
      from graphile_worker.add_jobs(array(
        select (
          'run',
          pg_catalog.json_build_object('tenant_id', t.tenant_id, 'run_id', t.run_id),
          null, t.available_at, 5, 'run:' || t.run_id || ':' || t.attempt, t.priority,
          null)::graphile_worker.job_spec
        from unnest(v_left) as t
        order by t.run_id)) as j);
    exit when pg_catalog.cardinality(v_queued) = coalesce(pg_catalog.cardinality(v_left), 0);

    -- One that a worker took in the middle of that is not replaced: asked for again, it is another token.
    v_left := array(
      select t from unnest(v_left) as t
      where not exists (
        select from unnest(v_queued) as q (key) where q.key = 'run:' || t.run_id || ':' || t.attempt));
  end loop;
  return coalesce(pg_catalog.cardinality(tokens), 0);
end
$$;

comment on function app_private.tokens_add is
  'Queues the token of each run, in the transaction that made the run due; the same token again replaces itself. One that '
  'workers snatch three times in a row is left to tokens_repair. Answers how many were asked for.';

grant execute on function app_private.tokens_add to holdfast_system;
