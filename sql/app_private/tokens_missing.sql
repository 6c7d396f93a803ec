create or replace function app_private.tokens_missing(keys text[], living text[]) returns text[]
language plpgsql
stable
security definer  -- the queue belongs to the owner
set search_path = ''
as $$
begin
  return array(
    select k.key
    from unnest(keys) as k (key)
    where not exists (
      select from graphile_worker.jobs as j
      where j.key = k.key
        and j.attempts < j.max_attempts
        and (j.locked_by is null or j.locked_by = any (living)
          or j.locked_at > pg_catalog.clock_timestamp() - interval '20 seconds')));
end
$$;

comment on function app_private.tokens_missing is
  'Which of these keys have no token in the queue that can still wake a worker up: none at all, one that has been tried '
  'too often, or one that is held by none of the living pools.';

grant execute on function app_private.tokens_missing to holdfast_system;
