create or replace function app_private.tokens_unlock(pools text[]) returns integer
language plpgsql
security definer  -- the queue belongs to the owner
set search_path = ''
as $$
declare
  v_locked integer;
begin
  v_locked := (select count(*) from graphile_worker.jobs as j where j.locked_by = any (pools));
  perform graphile_worker.force_unlock_workers(pools);
  return v_locked;
end
$$;

comment on function app_private.tokens_unlock is
  'Gives back the tokens that pools of graphile-worker hold, which are gone: it would keep them for four hours. Answers how '
  'many.';

grant execute on function app_private.tokens_unlock to holdfast_system;
