create or replace function app_private.token_places(keys text[]) returns table (key text, ahead integer)
language plpgsql
stable
security definer  -- the queue belongs to the owner
set search_path = ''
as $$
begin
  return query
  with ready as (
    select j.key, (row_number() over (order by j.priority, j.run_at, j.id))::integer as place
    from graphile_worker.jobs as j
    where j.locked_at is null and j.attempts < j.max_attempts and j.run_at <= pg_catalog.now()
    order by j.priority, j.run_at, j.id
    limit 10000
  )
  select j.key, coalesce(r.place - 1, case when j.locked_at is null then 10000 else 0 end)
  from graphile_worker.jobs as j
  left join ready as r on r.key = j.key
  where j.key = any (keys) and j.attempts < j.max_attempts;
end
$$;

comment on function app_private.token_places is
  'How many tokens of the queue go before each of these; 10000 stands for that many or more, and one that is not there has '
  'no row.';

grant execute on function app_private.token_places to holdfast_system;
