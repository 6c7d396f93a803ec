create or replace function app_private.job_gates_lock(tenant_ids uuid[], run_ids uuid[]) returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_gates app.job_gates[];
begin
  select array_agg(row(l.tenant_id, l.kind, 0, '-infinity')::app.job_gates order by l.tenant_id, l.kind)
  into v_gates
  from (
    select distinct r.tenant_id, r.kind
    from unnest(tenant_ids, run_ids) as w (tenant_id, run_id)
    join app.job_runs as r on r.tenant_id = w.tenant_id and r.id = w.run_id
    join app.job_kinds as k on k.kind = r.kind
    where k.max_running is not null or k.rate_per_minute is not null) as l;
  if v_gates is null then
    return;
  end if;

  insert into app.job_gates select u.* from unnest(v_gates) as u
  on conflict on constraint job_gates_pkey do nothing;
  perform from app.job_gates as g
  join unnest(v_gates) as u on u.tenant_id = g.tenant_id and u.kind = g.kind
  order by g.tenant_id, g.kind
  for no key update of g;
end
$$;

comment on function app_private.job_gates_lock is
  'Locks the gates of the limited kinds among these runs, in one order: who claims runs of the same tenant and kind waits.';

grant execute on function app_private.job_gates_lock to holdfast_system;
