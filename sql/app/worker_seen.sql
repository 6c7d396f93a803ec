set local role holdfast_system;

create or replace function app.worker_seen(host text, pid integer) returns boolean
language plpgsql
stable
security definer  -- sees all tenants; a worker has none
set search_path = ''
set row_security = on
as $$
begin
  return exists (
    select from app.job_workers as w
    where w.host = worker_seen.host and w.pid = worker_seen.pid
      and w.seen_at > pg_catalog.clock_timestamp() - interval '20 seconds');
end
$$;

comment on function app.worker_seen is
  'Whether that process is registered as a worker, for all tenants, and has beaten within 20 s: so it says that it is ready.';

grant execute on function app.worker_seen to holdfast_worker;

set local role holdfast_owner;
