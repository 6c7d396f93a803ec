create or replace function app_private.runs_wait(judged app_private.job_verdict[]) returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_tokens app_private.token[];
begin
  if not exists (select from unnest(judged) as j where j.verdict <> 'start') then
    return;
  end if;
  with waiting as (
    update app.job_runs as r
    set token_at = case when j.verdict = 'delayed' then pg_catalog.clock_timestamp() end,
        available_at = case when j.verdict = 'delayed' then pg_catalog.clock_timestamp() + j.delay
          else r.available_at end
    from unnest(judged) as j
    where j.verdict <> 'start' and r.tenant_id = j.tenant_id and r.id = j.run_id
    returning j.verdict, app_private.token_of(r, 1) as token
  )
  select array_agg(x.token) filter (where x.verdict = 'delayed') into v_tokens from waiting as x;
  if v_tokens is not null then
    perform app_private.tokens_add(v_tokens);
  end if;
end
$$;

comment on function app_private.runs_wait is
  'What becomes of runs that may not start yet: a parked one has no token until one of its tenant ends, a delayed one has the '
  'next for the moment at which its rate lets it. No attempt is used.';

grant execute on function app_private.runs_wait to holdfast_system;
