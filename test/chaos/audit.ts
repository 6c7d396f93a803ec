// The audit at the end: what must hold of every run, whatever was done to it.
import type pg from "pg";

/** One thing that was looked at: `found` is how much of what must not be; `proof` shows a few. */
export type Check = { check: string; found: number; proof: unknown[] };

/** What must hold: each statement answers the rows that break it. */
const MUST_NOT_BE: Record<string, string> = {
  "runs that have not ended": `
    select r.id, r.kind, r.state, r.attempt, r.token_at, r.available_at, r.lease_until, r.error_code, t.tier,
      to_jsonb(w) as token
    from app.job_runs as r
    join app.tenants as t on t.tenant_id = r.tenant_id
    left join graphile_worker.jobs as w on w.key = 'run:' || r.id || ':' || r.attempt
    where r.finished_at is null`,

  "dead leases": `
    select r.id, r.kind, r.worker, r.lease_until from app.job_runs as r
    where r.state = 'RUNNING' and r.lease_until < clock_timestamp() - interval '10 seconds'`,

  "waiting without a token where a place is free": `
    select r.id, r.kind, r.state, r.available_at from app.job_runs as r
    where r.state in ('PENDING', 'FAILED') and r.token_at is null and r.available_at < now() - interval '5 seconds'
      and exists (select from app_private.job_places(array[r.tenant_id], array[r.kind]))`,

  "broken chains of events": `
    select e.run_id, e.from_state, e.before, e.to_state, e.created_at
    from (select x.*, lag(x.to_state) over (partition by x.tenant_id, x.run_id order by x.id) as before
          from app.job_run_events as x) as e
    where e.from_state is distinct from e.before`,

  "chains that do not end in the state of their run": `
    select r.id, r.state, l.to_state
    from app.job_runs as r
    left join lateral (select e.to_state from app.job_run_events as e
                       where e.tenant_id = r.tenant_id and e.run_id = r.id order by e.id desc limit 1) as l on true
    where l.to_state is distinct from r.state`,

  "attempts that have no event, or two": `
    select r.id, r.attempt, count(e.id) as starts
    from app.job_runs as r
    left join app.job_run_events as e on e.tenant_id = r.tenant_id and e.run_id = r.id and e.to_state = 'RUNNING'
    group by r.tenant_id, r.id having count(e.id) <> max(r.attempt)`,

  "completed without its effect": `
    select r.id, r.kind, r.attempt from app.job_runs as r
    where r.state = 'COMPLETED' and r.kind like 'chaos%'
      and not exists (select from chaos.effects as e where e.tenant_id = r.tenant_id and e.run_id = r.id
                      and e.attempt = r.attempt)`,

  "effects without completion": `
    select e.*, r.state, r.attempt as run_attempt from chaos.effects as e
    left join app.job_runs as r on r.tenant_id = e.tenant_id and r.id = e.run_id
    where not e.committed_by_task and (r.state is distinct from 'COMPLETED' or r.attempt <> e.attempt)`,

  "effects twice": `
    select e.run_id, count(*) from chaos.effects as e
    where not e.committed_by_task group by e.tenant_id, e.run_id having count(*) > 1`,

  "a slot twice": `
    select r.tenant_id, r.kind, r.slot, count(*) from app.job_runs as r
    where r.slot is not null group by r.tenant_id, r.kind, r.slot having count(*) > 1`,

  "slots without their run, or runs without their slot": `
    select s.tenant_id, s.kind, s.slot, r.id from app.job_slots as s
    full join app.job_runs as r
      on r.tenant_id = s.tenant_id and r.id = s.run_id and r.kind = s.kind and r.slot = s.slot
    where s.run_id is null and r.slot is not null or r.id is null and s.run_id is not null`,

  "kinds of a slot out of their order": `
    select r.id, r.kind, r.slot, b.kind as before, r.created_at, ended.at
    from app.job_runs as r
    join app.job_kinds as k on k.kind = r.kind and k.slot_order is not null
    cross join lateral (select x.kind from app.job_kinds as x where x.slot_order < k.slot_order
                        order by x.slot_order desc limit 1) as b
    left join app.job_runs as p on p.tenant_id = r.tenant_id and p.kind = b.kind and p.slot = r.slot
    left join lateral (select min(e.created_at) as at from app.job_run_events as e
                       where e.tenant_id = p.tenant_id and e.run_id = p.id
                         and e.to_state in ('COMPLETED', 'DEAD_LETTER')) as ended on true
    where r.slot is not null
      and (ended.at is null or ended.at > (select min(f.created_at) from app.job_run_events as f
                                           where f.tenant_id = r.tenant_id and f.run_id = r.id))`,

  "caps exceeded": `
    with changes as (
      select r.tenant_id, r.kind, e.created_at, e.id,
        case when e.to_state = 'RUNNING' then 1 when e.from_state = 'RUNNING' then -1 else 0 end as step
      from app.job_run_events as e
      join app.job_runs as r on r.tenant_id = e.tenant_id and r.id = e.run_id
      join app.job_kinds as k on k.kind = r.kind and k.max_running is not null
    ),
    running as (
      select c.*, sum(c.step) over (partition by c.tenant_id, c.kind order by c.created_at, c.id) as together
      from changes as c
    )
    select r.tenant_id, r.kind, r.created_at, r.together, w.cap
    from running as r
    join app.job_kinds as k on k.kind = r.kind
    cross join lateral (
      -- The tier of that moment; one that was just left counts for a second.
      select max(app_private.job_window(k.max_running, t.weight)) as cap
      from (select x.tier, x.since, lead(x.since) over (order by x.since) as until
            from chaos.tiers as x where x.tenant_id = r.tenant_id) as h
      join app.tiers as t on t.tier = h.tier
      where h.since <= r.created_at + interval '1 second'
        and (h.until is null or h.until >= r.created_at - interval '1 second')) as w
    where r.step = 1 and r.together > w.cap`,

  "crashes and failures that are not what the events say": `
    select r.id, r.crash_count, c.crashes, r.failure_count, c.failures
    from app.job_runs as r
    cross join lateral (
      select count(*) filter (where e.reason in ('worker_lost', 'poison')) as crashes,
             count(*) filter (where e.reason not in ('worker_lost', 'poison', 'job_cancelled')) as failures
      from app.job_run_events as e
      where e.tenant_id = r.tenant_id and e.run_id = r.id and e.from_state = 'RUNNING'
        and e.to_state in ('FAILED', 'DEAD_LETTER')
        and e.id > coalesce((select x.id from app.job_run_events as x
                             where x.tenant_id = r.tenant_id and x.run_id = r.id and x.from_state = 'DEAD_LETTER'
                             order by x.id desc limit 1),
                            '00000000-0000-0000-0000-000000000000')) as c
    where r.crash_count <> c.crashes
      or (r.failure_count <> c.failures and r.error_code is distinct from 'job_cancelled')`,

  "poison that is not after three crashes": `
    select r.id, r.crash_count, r.state, r.error_code from app.job_runs as r
    where (r.error_code = 'poison' and r.state = 'DEAD_LETTER') <> (r.crash_count >= 3) or r.crash_count > 3`,

  "dead letters of a fault of ours": `
    select r.error_code, left(r.error, 200) as error, count(*) from app.job_runs as r
    where r.state = 'DEAD_LETTER' and r.error_code ~ '^sqlstate_(22|23|3F|40|42|P0|XX)'
    group by 1, 2`,

  "sessions that kept something of another run": `
    select r.id, r.error from app.job_runs as r where r.error like '%LEAK_SEEN%'`,

  "connections that are left": `
    select a.pid, a.usename, a.application_name, a.state, left(a.query, 100) as query from pg_stat_activity as a
    where a.datname = current_database() and a.backend_type = 'client backend'
      and (a.application_name like 'chaos_worker%' or a.application_name in ('holdfast_queue', 'chaos_scheduler'))`,

  "workers that are still listed":
    "select w.* from app.job_workers as w where w.seen_at < now() - interval '40 seconds'",
};

/** Looks at all of it. Three rows of each are the proof. */
export async function auditOf(superuser: pg.Pool): Promise<Check[]> {
  const client = await superuser.connect();
  const checks: Check[] = [];
  try {
    await client.query("analyze app.job_runs, app.job_run_events, app.job_slots, chaos.effects");
    await client.query("set statement_timeout = '5min'");
    for (const [check, text] of Object.entries(MUST_NOT_BE)) {
      const { rows } = await client.query<{ found: number; proof: unknown[] }>(
        `with broken as materialized (${text})
         select (select count(*)::int from broken) as found,
           array(select to_jsonb(b) from (select * from broken limit 3) as b) as proof`,
      );
      checks.push({ check, ...rows[0]! });
    }
  } finally {
    client.release(true);
  }
  return checks;
}

/** Runs cancelled while they ran, and claimed again without a replay. */
export async function cancelledAndRun(
  superuser: pg.Pool,
  cancels: readonly { tenantId: string; runId: string; at: Date }[],
): Promise<Check> {
  const { rows } = await superuser.query(
    `select c.run_id, c.at, e.created_at
     from jsonb_to_recordset($1::jsonb) as c (tenant_id uuid, run_id uuid, at timestamptz)
     cross join lateral (
       select x.created_at from app.job_run_events as x
       where x.tenant_id = c.tenant_id and x.run_id = c.run_id and x.to_state = 'RUNNING' and x.created_at > c.at
         and not exists (
           select from app.job_run_events as y
           where y.tenant_id = x.tenant_id and y.run_id = x.run_id and y.from_state = 'DEAD_LETTER'
             and y.created_at between c.at - interval '1 second' and x.created_at)
       limit 1) as e`,
    [JSON.stringify(cancels.map(({ tenantId, runId, at }) => ({ tenant_id: tenantId, run_id: runId, at })))],
  );
  return { check: "cancelled runs that ran again", found: rows.length, proof: rows.slice(0, 3) };
}

/** A run that was under way in a worker that was killed. */
export type Orphan = { tenantId: string; runId: string; attempt: number; killedAt: Date };

/** How long it took from the death of a worker until its runs were given back, and until they ran again. */
export type Rescue = {
  orphans: number;
  backMs: number[];
  /** Of those whose tenant has no flood of its own before them. */
  claimedMs: number[];
  /** Those that nobody gave back. */
  lost: number;
  /** The three that took longest until they ran again. */
  slowest: unknown[];
};

type Rescued = { tenant_id: string; back_ms: number | null; claimed_ms: number | null };

/** What became of the orphans, by the events. */
export async function rescueOf(
  superuser: pg.Pool,
  orphans: readonly Orphan[],
  flooded: readonly string[] = [],
): Promise<Rescue> {
  const { rows } = await superuser.query<Rescued>(
    `select r.tenant_id, t.name as tenant, r.kind, r.state, r.token_rank, o.attempt, o.at as killed_at,
       extract(epoch from b.at - o.at)::float * 1000 as back_ms,
       extract(epoch from c.at - o.at)::float * 1000 as claimed_ms
     from jsonb_to_recordset($1::jsonb) as o (tenant_id uuid, run_id uuid, attempt integer, at timestamptz)
     join app.job_runs as r on r.tenant_id = o.tenant_id and r.id = o.run_id
     join app.tenants as t on t.tenant_id = r.tenant_id
     left join lateral (
       select min(e.created_at) as at from app.job_run_events as e
       where e.tenant_id = o.tenant_id and e.run_id = o.run_id and e.attempt = o.attempt and e.from_state = 'RUNNING'
     ) as b on true
     left join lateral (
       select min(e.created_at) as at from app.job_run_events as e
       where e.tenant_id = o.tenant_id and e.run_id = o.run_id and e.attempt > o.attempt and e.to_state = 'RUNNING'
     ) as c on true`,
    [
      JSON.stringify(
        orphans.map(({ tenantId, runId, attempt, killedAt }) => ({
          tenant_id: tenantId,
          run_id: runId,
          attempt,
          at: killedAt,
        })),
      ),
    ],
  );
  const others = rows.filter((row) => !flooded.includes(row.tenant_id));
  const known = (values: (number | null)[]) =>
    values
      .filter((value) => value !== null && value > 0)
      .sort((one, other) => Number(one) - Number(other)) as number[];
  return {
    orphans: rows.length,
    backMs: known(rows.map((row) => row.back_ms)),
    claimedMs: known(others.map((row) => row.claimed_ms)),
    lost: rows.filter((row) => row.back_ms === null).length,
    slowest: others.sort((one, other) => (other.claimed_ms ?? 0) - (one.claimed_ms ?? 0)).slice(0, 3),
  };
}
