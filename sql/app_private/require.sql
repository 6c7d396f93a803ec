create or replace function app_private.require() returns boolean
language plpgsql
immutable  -- on purpose: the planner then runs it even where no row will be read, and keeps only "true"
parallel restricted
set search_path = ''
as $$
begin
  return app_private.current_tenant_id() is not null;
end
$$;

comment on function app_private.require is
  'True, or raises RL101 when no tenant was entered in this transaction. The first half of every policy.';

grant execute on function app_private.require to holdfast_tenant, holdfast_owner, holdfast_system;
