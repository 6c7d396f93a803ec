create or replace function app_private.tokens_add(tokens app_private.token[]) returns integer
language plpgsql
security definer  -- the queue belongs to the owner
set search_path = ''
as $$
declare
  v_queued integer;
begin
  select count(*) into v_queued
  from graphile_worker.add_jobs(array(
    select (
      'run',
      pg_catalog.json_build_object('tenant_id', t.tenant_id, 'run_id', t.run_id),
      null, t.available_at, 5, 'run:' || t.run_id || ':' || t.attempt, t.priority,
      null)::graphile_worker.job_spec
    from unnest(tokens) as t
    order by t.run_id));

  assert v_queued = coalesce(pg_catalog.cardinality(tokens), 0), 'every run gets its token';
  return v_queued;
end
$$;

comment on function app_private.tokens_add is
  'Queues the token of each run, in the transaction that made the run due; the same token again replaces itself.';

grant execute on function app_private.tokens_add to holdfast_system;
