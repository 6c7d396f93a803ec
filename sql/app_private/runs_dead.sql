create or replace function app_private.runs_dead(filter jsonb) returns setof app.job_runs
language plpgsql
set search_path = ''
as $$
declare
  v_filter constant app_private.run_filter := app_private.run_filter_of(filter);
  v_run    app.job_runs;
begin
  if v_filter.run_id is not null then
    -- One that was put aside is named by its id.
    v_run := app_private.run_lock(app_private.run_find(v_filter.run_id), v_filter.run_id);
    if v_run.state <> 'DEAD_LETTER' then
      perform app_private.run_not_dead(v_run);
    end if;
  end if;

  return query
  select r.*
  from app.job_runs as r
  where r.state = 'DEAD_LETTER'
    and (r.discarded_at is null or r.id = v_filter.run_id)
    and (v_filter.run_id is null or r.id = v_filter.run_id)
    and (v_filter.tenant_id is null or r.tenant_id = v_filter.tenant_id)
    and (v_filter.kind is null or r.kind = v_filter.kind)
    and (v_filter.error_code is null or r.error_code = v_filter.error_code)
    and (v_filter.since is null or r.finished_at >= v_filter.since)
    and (v_filter.until is null or r.finished_at < v_filter.until)
  order by r.tenant_id, r.id
  limit v_filter.max_runs
  for no key update;
end
$$;

comment on function app_private.runs_dead is
  'The dead letters that a filter means, locked in the order of their keys; those that were put aside only by their id. Raises '
  'JB101 and JB205 for a named run that is none, OP102, TN101.';

grant execute on function app_private.runs_dead to holdfast_system;
