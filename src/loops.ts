// What a worker does now and then, for all tenants: maintenance, ticks of the scheduler, reaping, expiry.
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import type { Logger } from "pino";
import type { Db } from "./db.ts";
import { AppError } from "./errors.ts";
import {
  type Admitted,
  type CohortTick,
  jobAdmit,
  jobReap,
  llmExpire,
  llmPresumedResolve,
  maintain,
  scheduleTick,
  tiersDerive,
  tokensRepair,
  workersReap,
} from "./jobs.ts";
import type { Observe } from "./runs.ts";

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

/** A tick makes at most so many runs in one transaction, and goes on until none are due. */
const RUNS_PER_TICK = 50_000;
/** How long the transactions of one tick may take together. */
const TICK_DEADLINE_MS = 1 * MINUTE;
/** The wait before a tick that met a deadlock is tried again; it doubles. */
const DEADLOCK_PAUSE_MS = 1 * SECOND;
/** How many rows one transaction of a sweep looks at. */
const ROWS_PER_SWEEP = 500;
const PAIRS_PER_SWEEP = 2_000;
const TENANTS_PER_SWEEP = 10_000;

/** What the loops are started with. */
export type LoopOptions = {
  db: Db;
  log: Logger;
  observe?: Observe | undefined;
  tickEveryMs: number;
  /** How often a tick that met a deadlock is tried again, after 1 s, 2 s, 4 s and so on. */
  deadlockRetries: number;
};

/** What a tick made: runs, for the tenants of so many rows of the schedule that were due. */
export type Tick = { runs: number; shards: number };

/** Loops that run; `ended` resolves when the last of them has. */
export type Loops = {
  /** Ticks now: when it resolves, all that was due has its runs. Throws what the tick threw. */
  tickNow(): Promise<Tick>;
  ended: Promise<unknown>;
};

/** One loop: `work` over and over, never twice at once; the signal is its deadline and the worker's stop. */
type Round = {
  name: string;
  everyMs: number;
  deadlineMs: number;
  work(signal: AbortSignal): Promise<unknown>;
};

/** Starts the loops, each with a first round at once. They end when `stopping` is aborted. */
export function startLoops(options: LoopOptions, stopping: AbortSignal): Loops {
  const ticks = oneAtATime((signal) => tick(options, signal));
  const ended = Promise.all(roundsOf(options, ticks).map((round) => loop(options.log, round, stopping)));
  return { tickNow: () => within(TICK_DEADLINE_MS, stopping, ticks), ended };
}

function roundsOf(options: LoopOptions, ticks: Round["work"]): Round[] {
  const { db, log } = options;
  const quick = { deadlineMs: 15 * SECOND };
  return [
    { name: "maintain", everyMs: 60 * MINUTE, deadlineMs: 5 * MINUTE, work: (signal) => upkeep(db, signal) },
    { name: "schedule_tick", everyMs: options.tickEveryMs, deadlineMs: TICK_DEADLINE_MS, work: ticks },
    { name: "tiers_derive", everyMs: MINUTE, deadlineMs: MINUTE, work: (signal) => derive(db, signal) },
    { name: "job_admit", everyMs: SECOND, ...quick, work: admitting(db) },
    { name: "job_reap", everyMs: 5 * SECOND, ...quick, work: (signal) => reap(options, signal) },
    { name: "workers_reap", everyMs: 5 * SECOND, ...quick, work: (signal) => reapWorkers(options, signal) },
    { name: "tokens_repair", everyMs: 5 * SECOND, ...quick, work: (signal) => repair({ db, log }, signal) },
    { name: "llm_expire", everyMs: 30 * SECOND, ...quick, work: (signal) => expire(options, signal) },
    {
      name: "llm_presumed_resolve",
      everyMs: 30 * SECOND,
      ...quick,
      work: (signal) => resolve(options, signal),
    },
  ];
}

/** Each call is a short transaction; what is left is for the next one. */
async function upkeep(db: Db, signal: AbortSignal): Promise<void> {
  for (let left = 1; left > 0; ) {
    const { rowsSwept, partitionsDropped } = await maintain(db, { signal, timeoutMs: MINUTE });
    left = rowsSwept + partitionsDropped;
  }
}

async function derive(db: Db, signal: AbortSignal): Promise<void> {
  const options = { signal, timeoutMs: MINUTE };
  while ((await tiersDerive(db, TENANTS_PER_SWEEP, options)) === TENANTS_PER_SWEEP);
}

/** One transaction a round; the next round goes on where this one has ended, and at the end from the start. */
function admitting(db: Db): Round["work"] {
  let last: Admitted | undefined;
  return async (signal) => {
    last = await jobAdmit(db, PAIRS_PER_SWEEP, last, { signal });
  };
}

async function repair({ db, log }: Pick<LoopOptions, "db" | "log">, signal: AbortSignal): Promise<void> {
  let count = 0;
  // A queue that was lost is queued again without a pause. One that is long is looked at a part at a time.
  for (let goOn = true; goOn; ) {
    const looked = await tokensRepair(db, ROWS_PER_SWEEP, { signal });
    count += looked.repaired;
    goOn = looked.repaired > 0 && looked.lookedAt === ROWS_PER_SWEEP;
  }
  if (count > 0) log.info({ count }, "tokens_repaired");
}

async function reapWorkers({ db, log }: LoopOptions, signal: AbortSignal): Promise<void> {
  for (const lost of await workersReap(db, { signal })) log.warn(lost, "worker_lost");
}

/** One line for each run, as the worker would have written it that is gone. */
async function reap({ db, log, observe }: LoopOptions, signal: AbortSignal): Promise<void> {
  for (const { tenantId, runId, state, errorCode, kind } of await jobReap(db, { signal })) {
    const facts = { tenant_id: tenantId, run_id: runId, kind, error_code: errorCode };
    observe?.transition("RUNNING", state);
    observe?.reaped(kind, state === "DEAD_LETTER" ? "dead_letter" : "retry");
    if (state === "DEAD_LETTER") log.error(facts, "job_dead_letter");
    else log.warn(facts, "job_failed");
  }
}

/** One line for each hold, as its call would have written it. */
async function expire({ db, log }: LoopOptions, signal: AbortSignal): Promise<void> {
  for (let count = ROWS_PER_SWEEP; count === ROWS_PER_SWEEP; ) {
    const expired = await llmExpire(db, ROWS_PER_SWEEP, { signal });
    for (const { tenantId, reservationId, runId } of expired) {
      const facts = { tenant_id: tenantId, reservation_id: reservationId, run_id: runId };
      log.warn({ ...facts, reason: "expired" }, "llm_presumed");
    }
    count = expired.length;
  }
}

/** One line for each hold: a policy has ended what nobody has settled. */
async function resolve({ db, log }: LoopOptions, signal: AbortSignal): Promise<void> {
  for (let count = ROWS_PER_SWEEP; count === ROWS_PER_SWEEP; ) {
    const resolved = await llmPresumedResolve(db, ROWS_PER_SWEEP, { signal });
    for (const { tenantId, reservationId, status } of resolved) {
      log.warn({ tenant_id: tenantId, reservation_id: reservationId, status }, "llm_presumed_resolved");
    }
    count = resolved.length;
  }
}

/** Goes on until the worker stops; a round that fails is logged, and the next one comes all the same. */
async function loop(log: Logger, round: Round, stopping: AbortSignal): Promise<void> {
  while (!stopping.aborted) {
    try {
      await within(round.deadlineMs, stopping, round.work);
    } catch (error) {
      if (!stopping.aborted) log.error({ err: error, loop: round.name }, "loop_failed");
    }
    // Jitter keeps many workers from coming at the same moment.
    await sleep(round.everyMs * (0.9 + 0.2 * Math.random()), undefined, { signal: stopping }).catch(() => {});
  }
}

/** Calls `work` with a signal that is aborted after `ms`, or with `outer`. */
async function within<T>(
  ms: number,
  outer: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  outer.throwIfAborted();
  const inner = new AbortController();
  const onAbort = () => inner.abort(outer.reason);
  const timer = setTimeout(() => inner.abort(new Error(`not done within ${ms} ms`)), ms);
  outer.addEventListener("abort", onAbort, { once: true });
  try {
    return await work(inner.signal);
  } finally {
    clearTimeout(timer);
    outer.removeEventListener("abort", onAbort);
  }
}

/** Calls that meet wait for one another, so that each begins after it was asked for. */
function oneAtATime<T>(work: (signal: AbortSignal) => Promise<T>): (signal: AbortSignal) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (signal) => {
    const next = last.then(() => work(signal));
    last = next.catch(() => {});
    return next;
  };
}

async function tick(options: LoopOptions, signal: AbortSignal): Promise<Tick> {
  const began = performance.now();
  const all: CohortTick[] = [];
  const total = { runs: 0, shards: 0 };
  try {
    // A transaction that is cut at the deadline is lost: none is begun that might be.
    for (let more = true; more && performance.now() - began < TICK_DEADLINE_MS / 2; ) {
      const made = await tickOnce(options, signal);
      all.push(...made);
      for (const { runs, shards } of made) {
        total.runs += runs;
        total.shards += shards;
      }
      more = made.some(({ runs, shards }) => runs + shards > 0);
    }
  } finally {
    // What its earlier transactions have made is there, whatever ended it.
    options.observe?.tick((performance.now() - began) / 1000, all);
    options.observe?.transition("", "PENDING", total.runs);
    if (total.runs > 0) options.log.info(total, "schedule_ticked");
  }
  return total;
}

/** One transaction of the scheduler. A deadlock, which nothing should cause, is counted and tried again. */
async function tickOnce(options: LoopOptions, signal: AbortSignal): Promise<CohortTick[]> {
  for (let tries = 0; ; tries += 1) {
    try {
      return await scheduleTick(options.db, RUNS_PER_TICK, { signal, timeoutMs: TICK_DEADLINE_MS });
    } catch (error) {
      if (!(error instanceof pg.DatabaseError && error.code === "40P01")) throw error;
      const isLast = tries >= options.deadlockRetries;
      const pauseMs = DEADLOCK_PAUSE_MS * 2 ** tries;
      options.observe?.schedulerDeadlock();
      options.log.warn(isLast ? {} : { retry_in_ms: pauseMs }, "scheduler_deadlock_detected");
      if (isLast) {
        const hint = "The next tick makes what this one has not; select * from ops.schedules shows it.";
        throw new AppError("scheduler_deadlock_detected", { hint, cause: error });
      }
      await sleep(pauseMs, undefined, { signal });
    }
  }
}
