set local role holdfast_system;

create or replace function ops.job_show(run uuid) returns table (at timestamptz, what text, detail text)
language plpgsql
stable
security definer  -- sees all tenants
set search_path = ''
set row_security = on
as $$
declare
  v_now       constant timestamptz := pg_catalog.clock_timestamp();
  v_tenant_id constant uuid := app_private.run_find(run);
begin
  return query
  with r as materialized (
    select x.*, t.name as tenant from app.job_runs as x
    join app.tenants as t on t.tenant_id = x.tenant_id
    where x.tenant_id = v_tenant_id and x.id = run
  ),
  story as (
    select 1 as place, r.created_at as at, 'made' as what, concat_ws(', ', r.kind || ' of ' || r.tenant,
             'turn ' || to_timestamp(r.slot), 'input ' || left(nullif(r.input, '{}')::text, 200)) as detail
    from r
    union all
    select 2, e.created_at, coalesce(e.from_state || ' to ', '') || e.to_state,
           concat_ws(', ', 'attempt ' || nullif(e.attempt, 0), 'by ' || e.actor, e.reason)
    from app.job_run_events as e where e.tenant_id = v_tenant_id and e.run_id = run
    union all
    select 3, e.created_at, replace(substr(e.type, 5), '_', ' '),
           concat_ws(', ', 'by ' || (e.data ->> 'actor'), e.data ->> 'reason')
    from app.events as e
    where e.tenant_id = v_tenant_id and e.id >= run and e.subject_id = run
      and e.type in ('run.cancel_requested', 'run.discarded')  -- what changes no state
    union all
    select 4, max(e.created_at), 'last error', concat_ws(': ', r.error_code, r.error)
    from r
    join app.job_run_events as e on e.tenant_id = v_tenant_id and e.run_id = run and e.from_state = 'RUNNING'
    where r.error_code is not null
    group by r.error_code, r.error
    union all
    select 5, r.token_at, 'token', 'for ' || date_trunc('second', r.available_at) || ', rank ' || r.token_rank
    from r where r.token_at is not null and r.state in ('PENDING', 'FAILED')
    union all
    select 6, v_now, 'progress', concat_ws(', ', round(r.progress::numeric * 100) || ' %', r.progress_text)
    from r where r.state = 'RUNNING' and (r.progress is not null or r.progress_text is not null)
    union all
    select 7, v_now, 'lease', 'of ' || r.worker || ', ends in ' || app_private.ago(r.lease_until - v_now)
    from r where r.state = 'RUNNING'
    union all
    select 8, v_now, 'waits',
           app_private.wait_why(w.cause, w.kind, w.tier, w.used, w.size, w.error_code, w.available_at)
    from app_private.run_waits as w where w.tenant_id = v_tenant_id and w.id = run
    union all
    select 9, v_now, 'waits', 'for a person: ops.job_replay or ops.job_discard'
    from r where r.state = 'DEAD_LETTER' and r.discarded_at is null
  )
  select s.at, s.what, s.detail from story as s order by s.at, s.place;
end
$$;

comment on function ops.job_show is
  'The story of a run of any of all tenants: how it was made, each change of state, what people did, its last error, and what it '
  'has and waits for now. Raises JB101.';

grant execute on function ops.job_show to holdfast_ops;

set local role holdfast_owner;
