set local role holdfast_system;

create or replace function app.worker_stop(worker text) returns integer
language plpgsql
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_pool text;
begin
  delete from app.job_workers as w where w.worker = worker_stop.worker returning w.pool into v_pool;
  return case when v_pool is null then 0 else app_private.tokens_unlock(array[v_pool]) end;
end
$$;

comment on function app.worker_stop is
  'A worker has ended in order: it is listed no more, and what it still held of the queue is given back, among all tenants. '
  'Answers how many tokens that were.';

grant execute on function app.worker_stop to holdfast_worker;

set local role holdfast_owner;
