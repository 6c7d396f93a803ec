// What is looked at while chaos goes on, once a second: what must hold at every moment, and what is lost with a restart.
import { setTimeout as sleep } from "node:timers/promises";
import type { Scene } from "./scene.ts";

/** The worst that was seen. */
export type Seen = {
  looks: number;
  /** Deadlocks as pg_stat_database counts them, over all lives of the server. */
  deadlocks: number;
  /** Seconds that a lease was over and its run still RUNNING. */
  deadLeaseSeconds: number;
  /** Runs beyond the cap of their tenant and kind, at one moment. */
  beyondCap: number;
  /** Seconds that a row of the schedule was due. */
  schedulerLagSeconds: number;
  /** Seconds that a token was held by a pool that no living worker has. */
  orphanSeconds: number;
  /** Seconds that a connection of a worker was idle in a transaction. */
  idleSeconds: number;
  liveRuns: number;
};

/** A look that takes this long says more about the machine. */
const LOOK_MS = 1_000;

/** Starts to look. */
export function startWatch(scene: Scene): { seen: Seen; stop(): Promise<void> } {
  const seen: Seen = {
    looks: 0,
    deadlocks: 0,
    deadLeaseSeconds: 0,
    beyondCap: 0,
    schedulerLagSeconds: 0,
    orphanSeconds: 0,
    idleSeconds: 0,
    liveRuns: 0,
  };
  let last = { started: "", deadlocks: 0 };
  const look = async () => {
    const { rows } = await scene.superuser.query<Look>(LOOK);
    const now = rows[0]!;
    // A server that crashed has forgotten what it counted.
    const since = now.started === last.started || now.deadlocks >= last.deadlocks ? last.deadlocks : 0;
    seen.deadlocks += now.deadlocks - Math.min(since, now.deadlocks);
    last = now;
    seen.looks += 1;
    for (const name of [
      "deadLeaseSeconds",
      "beyondCap",
      "schedulerLagSeconds",
      "idleSeconds",
      "liveRuns",
    ] as const)
      seen[name] = Math.max(seen[name], now[name]);
    seen.orphanSeconds = Math.max(seen.orphanSeconds, await orphans(scene));
  };
  const stopping = new AbortController();
  const ended = (async () => {
    while (!stopping.signal.aborted) {
      await look().catch(() => {}); // the server is away
      await sleep(LOOK_MS, undefined, { signal: stopping.signal }).catch(() => {});
    }
    await look();
  })();
  return {
    seen,
    stop: async () => {
      stopping.abort();
      await ended;
    },
  };
}

type Look = Omit<Seen, "looks" | "orphanSeconds"> & { started: string };

const LOOK = `
  select pg_postmaster_start_time()::text as started,
    (select d.deadlocks::int from pg_stat_database as d where d.datname = current_database()) as deadlocks,
    (select coalesce(max(extract(epoch from clock_timestamp() - r.lease_until)), 0)::float from app.job_runs as r
     where r.state = 'RUNNING') as "deadLeaseSeconds",
    (select coalesce(max(n.running - app_private.job_window(k.max_running, 2)), 0)::int
     from (select r.tenant_id, r.kind, count(*)::int as running from app.job_runs as r
           where r.state = 'RUNNING' group by r.tenant_id, r.kind) as n
     join app.job_kinds as k on k.kind = n.kind and k.max_running is not null) as "beyondCap",
    (select coalesce(max(extract(epoch from now() - s.next_run_at)), 0)::float from app.schedules as s
     join app.tiers as t on t.tier = s.tier and t.paused_at is null) as "schedulerLagSeconds",
    (select coalesce(max(extract(epoch from now() - a.state_change)), 0)::float from pg_stat_activity as a
     where a.datname = current_database() and a.state like 'idle in transaction%'
       and (a.application_name like 'chaos_worker%' or a.application_name = 'holdfast_queue')) as "idleSeconds",
    (select count(*)::int from app.job_runs as r where r.state in ('PENDING', 'RUNNING', 'FAILED')) as "liveRuns"`;

/** The queue may be away. */
async function orphans(scene: Scene): Promise<number> {
  const { rows } = await scene.superuser
    .query<{ seconds: number }>(
      `select coalesce(max(extract(epoch from now() - j.locked_at)), 0)::float as seconds
       from graphile_worker.jobs as j
       where j.locked_by is not null and not exists (select from app.job_workers as w where w.pool = j.locked_by)`,
    )
    .catch(() => ({ rows: [] }));
  return rows[0]?.seconds ?? 0;
}
