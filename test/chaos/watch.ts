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
  /** Seconds that a run was due and had no token that could wake a worker up: none, or one that a lost worker held. */
  tokenlessSeconds: number;
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
    tokenlessSeconds: 0,
    idleSeconds: 0,
    liveRuns: 0,
  };
  const tokenless = new Spans();
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
    seen.tokenlessSeconds = Math.max(seen.tokenlessSeconds, tokenless.longest(await tokenlessRuns(scene)));
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

type Look = Omit<Seen, "looks" | "tokenlessSeconds"> & { started: string };

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

/** Since when each has been seen, look after look. */
class Spans {
  #since = new Map<string, number>();

  /** The longest span, in seconds, of those that are seen now; the others are forgotten. */
  longest(seen: readonly string[] | undefined): number {
    const now = performance.now();
    if (seen !== undefined) this.#since = new Map(seen.map((each) => [each, this.#since.get(each) ?? now]));
    return Math.max(0, ...[...this.#since.values()].map((since) => (now - since) / 1_000));
  }
}

/** Undefined while the queue is away: a run has no token then. */
async function tokenlessRuns(scene: Scene): Promise<string[] | undefined> {
  const found = await scene.superuser
    .query<{ key: string }>(
      `select x.key
       from (select 'run:' || r.id || ':' || r.attempt as key from app.job_runs as r
             where r.state in ('PENDING', 'FAILED') and r.token_at is not null and r.available_at < now()) as x
       where not exists (
         select from graphile_worker.jobs as j
         where j.key = x.key and j.attempts < j.max_attempts
           and (j.locked_by is null or exists (
             select from app.job_workers as w where w.pool = j.locked_by and w.seen_at > now() - interval '6 seconds')))`,
    )
    .catch(() => undefined);
  return found?.rows.map(({ key }) => key);
}
