create or replace function app_private.run_add(
  tenant_id uuid, id uuid, kind text, input jsonb, available_at timestamptz, priority smallint)
returns app.job_runs
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan  -- to plan over all months costs more than to run
set enable_seqscan = off  -- a plan may be of a time when the month was empty
set jit = off  -- what no index serves costs 1e10 then, up to 17, and would be compiled
as $$
declare
  v_max_waiting integer;
  v_weight      numeric;
  v_rank        smallint;
  v_run         app.job_runs;
begin
  select k.max_waiting, c.weight into v_max_waiting, v_weight
  from app.job_kinds as k
  cross join app.tenants as t
  join app.tiers as c on c.tier = t.tier
  where k.kind = run_add.kind and t.tenant_id = run_add.tenant_id;
  if not found then
    raise exception using
      errcode = 'JB102',
      message = 'job_kind_unknown',
      detail  = pg_catalog.jsonb_build_object('kind', kind),
      hint    = 'select * from app.job_kinds lists the kinds of job that there are.';
  end if;
  -- Counting a long line at each call would make it slower the longer it is: beyond a thousand, one call in 64 counts.
  if (v_max_waiting <= 1000 or pg_catalog.get_byte(pg_catalog.uuid_send(id), 15) < 4)
    and (select count(*) >= v_max_waiting from (
      select from app.job_runs as r
      where r.tenant_id = run_add.tenant_id and r.kind = run_add.kind
        and r.state in ('PENDING', 'RUNNING', 'FAILED') limit v_max_waiting) as live)
  then
    raise exception using
      errcode = 'JB103',
      message = 'job_queue_full',
      detail  = pg_catalog.jsonb_build_object('kind', kind, 'max_waiting', v_max_waiting),
      hint    = 'That many runs of this kind wait already. Wait for them, or cancel some.';
  end if;

  -- Who comes while others are parked goes behind them.
  if available_at <= pg_catalog.clock_timestamp() and not exists (
    select from app.job_runs as r
    where r.tenant_id = run_add.tenant_id and r.kind = run_add.kind
      and r.state in ('PENDING', 'FAILED') and r.token_at is null
      and r.available_at <= pg_catalog.clock_timestamp())
  then
    v_rank := (select min(f.rank) from app_private.job_places(array[tenant_id], array[kind]) as f);
  end if;
  insert into app.job_runs as r (tenant_id, id, kind, input, available_at, priority, token_at, token_rank)
  values (run_add.tenant_id, run_add.id, run_add.kind, run_add.input, run_add.available_at, run_add.priority,
          case when v_rank is not null then pg_catalog.clock_timestamp() end, coalesce(v_rank, 0))
  returning r.* into v_run;
  if v_rank is not null then
    perform app_private.tokens_add(array[app_private.token_of(v_run, v_weight)]);
  end if;
  return v_run;
end
$$;

comment on function app_private.run_add is
  'Makes a run that somebody asks for: with its token when its tenant has a free place, else parked until one ends. Raises '
  'JB102 for a kind that is not there, JB103 when max_waiting runs of it have not ended; a limit of more than a thousand may be '
  'passed by a few dozen.';

grant execute on function app_private.run_add to holdfast_system;
