create or replace function app_private.tokens_unlock_strays() returns integer
language plpgsql
set search_path = ''
as $$
begin
  return app_private.tokens_unlock(array(
    select distinct j.locked_by
    from graphile_worker.jobs as j
    where j.locked_at < pg_catalog.clock_timestamp() - interval '1 minute'
      and not exists (select from app.job_workers as w where w.pool = j.locked_by)));
end
$$;

comment on function app_private.tokens_unlock_strays is
  'Gives back the tokens of pools that no worker has: of one that ended before its first beat, or after it was taken for lost. '
  'Their runs have other tokens by then; these would stand in the queue for hours. Answers how many.';
