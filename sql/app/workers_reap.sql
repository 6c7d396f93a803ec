set local role holdfast_system;

create or replace function app.workers_reap()
returns table (worker text, host text, pid integer, tokens integer)
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_lost app.job_workers;
begin
  for v_lost in
    delete from app.job_workers as w
    where w.worker in (
      select x.worker from app.job_workers as x
      where x.seen_at < pg_catalog.clock_timestamp() - interval '20 seconds'
      order by x.worker
      for update skip locked)
    returning w.*
  loop
    worker := v_lost.worker;
    host := v_lost.host;
    pid := v_lost.pid;
    tokens := app_private.tokens_unlock(array[v_lost.pool]);
    return next;
  end loop;
end
$$;

comment on function app.workers_reap is
  'Removes the workers that were not heard of for 20 s, and gives back the tokens that they held, among all tenants: their runs '
  'come back by their leases. One that still lives is registered again by its next beat; what it held is fenced.';

grant execute on function app.workers_reap to holdfast_worker, holdfast_ops;

set local role holdfast_owner;
