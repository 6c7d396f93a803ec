create or replace function app_private.turns_make(
  tenant_ids uuid[], cohorts text[], slots bigint[], missed bigint[])
returns app_private.cohort_turns[]
language plpgsql
set search_path = ''
set plan_cache_mode = force_custom_plan  -- one run or fifty thousand: a plan for ten would not end
set work_mem = '32MB'
as $$
declare
  v_kinds  app.job_kinds[] := array(
    select k from app.job_kinds as k where k.slot_order is not null order by k.slot_order);
  v_second text;             -- the first one of tenants without a source of costs
  v_busy   uuid[];           -- who has runs that have not ended, and maybe no place left
  v_made   app_private.cohort_turns[] := array[]::app_private.cohort_turns[];
  v_batch  record;
begin
  if coalesce(tenant_ids, '{}') = '{}' or v_kinds = '{}' then return v_made; end if;
  v_second := case when v_kinds[1].kind = 'cost_import' then v_kinds[2].kind else v_kinds[1].kind end;
  perform app_private.turns_cancel(tenant_ids, cohorts, slots);
  v_busy := array(
    select distinct r.tenant_id from app.job_runs as r
    where r.tenant_id = any (tenant_ids) and r.state in ('PENDING', 'RUNNING', 'FAILED'));

  for v_batch in
    with taken as (
      insert into app.job_slots (tenant_id, kind, slot, run_id)
      select w.tenant_id, case when f.sourced then v_kinds[1].kind else v_second end, w.slot,
             app_private.uuid_v7()
      from unnest(tenant_ids, slots) as w (tenant_id, slot)
      cross join lateral (
        select w.tenant_id in (select s.tenant_id from app.cost_sources as s) as sourced) as f
      -- Its source may be newer than the turn.
      where (f.sourced or v_second is not null) and not (f.sourced and exists (
        select from app.job_slots as j where j.tenant_id = w.tenant_id and j.kind = v_second
          and j.slot = w.slot))
      order by w.tenant_id
      on conflict on constraint job_slots_pkey do nothing returning tenant_id, kind, slot, run_id
    ),
    made as (
      insert into app.job_runs as r (tenant_id, id, kind, slot, input, token_at, token_rank)
      select t.tenant_id, t.run_id, t.kind, t.slot,
             case w.missed when 0 then '{}' else pg_catalog.jsonb_build_object('missed_slots', w.missed) end,
             case when p.rank is not null then pg_catalog.clock_timestamp() end, coalesce(p.rank, 0)
      from taken as t
      join unnest(tenant_ids, missed) as w (tenant_id, missed) on w.tenant_id = t.tenant_id
      join unnest(v_kinds) as k on k.kind = t.kind
      cross join lateral (select case
        when k.paused_at is not null then null
        when t.tenant_id <> all (v_busy) then 0
        else (select min(f.rank) from app_private.job_places(array[t.tenant_id], array[t.kind]) as f)
        end::smallint as rank) as p
      order by t.tenant_id
      returning r.*
    )
    select row(c.tier, count(m.id), 0, 0, count(*) filter (where m.id is null and (
             v_second is not null or w.tenant_id in (select s.tenant_id from app.cost_sources as s)))
           )::app_private.cohort_turns as turns,
           array_agg(app_private.token_of(m, c.weight)) filter (where m.token_at is not null) as tokens
    from unnest(tenant_ids, cohorts) as w (tenant_id, cohort)
    left join made as m on m.tenant_id = w.tenant_id
    join app.tiers as c on c.tier = w.cohort
    group by c.tier
  loop
    v_made := v_made || v_batch.turns;
    perform app_private.tokens_add(v_batch.tokens) where v_batch.tokens is not null;
  end loop;
  return v_made;
end
$$;

comment on function app_private.turns_make is
  'Makes the first run of a turn of each of these tenants, with its token, once for each tenant and slot; a tenant comes '
  'once. Answers for each cohort the runs, and as duplicates the turns that tenants had already. The kind is the first that '
  'applies: cost_import is for tenants with a row in app.cost_sources. That of a paused kind is made all the same and waits '
  'without a token, as at any other pause: its turn goes on when the pause ends. missed is what its input says of turns that were given up for it.';

grant execute on function app_private.turns_make to holdfast_system;
