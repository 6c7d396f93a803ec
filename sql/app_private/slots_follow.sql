create or replace function app_private.slots_follow(ended app.job_runs[]) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_tokens app_private.token[];
  v_made   integer;
begin
  with next as materialized (
    select e.tenant_id, k.kind, e.slot, app_private.slot_input(e) as input, app_private.uuid_v7() as run_id
    from unnest(ended) as e
    join app.job_kinds as p on p.kind = e.kind
    cross join lateral (
      select x.kind, x.paused_at is not null as paused
      from app.job_kinds as x
      where x.slot_order > p.slot_order
        and (x.kind <> 'cost_import'
          or exists (select from app.cost_sources as s where s.tenant_id = e.tenant_id))
      order by x.slot_order
      limit 1) as k
    -- Who cancelled it ended the turn, until it is replayed. What died and is replayed has had its next one: the slot is
    -- taken, for as long as slots are kept.
    where e.slot is not null and e.discarded_at is null and e.cancel_requested_at is null
      and (e.replay_count = 0 or e.slot > extract(epoch from pg_catalog.now() - interval '1 day'))
      -- While its kind is paused one of a tenant waits, for the newest turn as well: they do not pile up.
      and not (k.paused and exists (
        select from app.job_runs as w
        where w.tenant_id = e.tenant_id and w.kind = k.kind and w.slot is not null
          and w.state in ('PENDING', 'FAILED')))
  ),
  taken as (
    insert into app.job_slots (tenant_id, kind, slot, run_id)
    select n.tenant_id, n.kind, n.slot, n.run_id from next as n order by n.tenant_id, n.kind, n.slot
    on conflict on constraint job_slots_pkey do nothing
    returning tenant_id, kind, slot, run_id
  ),
  made as (
    insert into app.job_runs as r (tenant_id, id, kind, slot, input, token_at, token_rank)
    select t.tenant_id, t.run_id, t.kind, t.slot, n.input,
           case when f.rank is not null then pg_catalog.clock_timestamp() end, coalesce(f.rank, 0)
    from taken as t
    join next as n on n.tenant_id = t.tenant_id and n.run_id = t.run_id
    left join lateral (
      select x.rank
      from app_private.job_places(array[t.tenant_id], array[t.kind]) as x
      order by x.rank limit 1) as f on true
    returning r.*
  )
  select array_agg(app_private.token_of(m, c.weight)) filter (where m.token_at is not null), count(*)
  into v_tokens, v_made
  from made as m
  join app.tenants as t on t.tenant_id = m.tenant_id
  join app.tiers as c on c.tier = t.tier;
  if v_tokens is not null then
    perform app_private.tokens_add(v_tokens);
  end if;
  return v_made;
end
$$;

comment on function app_private.slots_follow is
  'Makes the next kind of the slot of each of these ended runs, once for each tenant, kind and slot. It goes on without a '
  'run that ended as a dead letter, and its input says so. The turn of a run that was cancelled, by a person or by the '
  'next turn of its tenant, ends with it. Answers how many it made.';

grant execute on function app_private.slots_follow to holdfast_system;
