create or replace function app_private.tokens_count(at_most integer) returns integer
language plpgsql
stable
security definer  -- the queue belongs to the owner
set search_path = ''
as $$
begin
  return (select count(*) from (select from graphile_worker.jobs limit at_most) as j);
end
$$;

comment on function app_private.tokens_count is
  'How many tokens are in the queue; counts no further than at_most.';

grant execute on function app_private.tokens_count to holdfast_system;
