// What a worker does now and then, for all tenants: maintenance, ticks of the scheduler, reaping, expiry.
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import type { Logger } from "pino";
import type { Db } from "./db.ts";
import { AppError } from "./errors.ts";
import { jobReap, llmExpire, maintain, scheduleTick, type Tick, tokensRepair } from "./jobs.ts";
import type { Observe } from "./runs.ts";

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

/** A tick takes this many rows of the schedule in one transaction, and goes on until no more are due. */
const SHARDS_PER_TICK = 16;
/** How long the transactions of one tick may take together. */
const TICK_DEADLINE_MS = 1 * MINUTE;
/** Waits before a tick that met a deadlock is tried again. */
const DEADLOCK_PAUSES_MS = [1 * SECOND, 2 * SECOND, 4 * SECOND];

/** What the loops are started with. */
export type LoopOptions = { db: Db; log: Logger; observe?: Observe | undefined; tickEveryMs: number };

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
  return [
    {
      name: "maintain",
      everyMs: 60 * MINUTE,
      deadlineMs: 5 * MINUTE,
      work: async (signal) => {
        // Each call is a short transaction; what is left is for the next one.
        for (let swept = 1; swept > 0; )
          ({ rowsSwept: swept } = await maintain(db, { signal, timeoutMs: MINUTE }));
      },
    },
    { name: "schedule_tick", everyMs: options.tickEveryMs, deadlineMs: TICK_DEADLINE_MS, work: ticks },
    {
      name: "job_reap",
      everyMs: 5 * SECOND,
      deadlineMs: 15 * SECOND,
      work: (signal) => reap(options, signal),
    },
    {
      name: "tokens_repair",
      everyMs: 5 * SECOND,
      deadlineMs: 15 * SECOND,
      work: async (signal) => {
        const count = await tokensRepair(db, { signal });
        if (count > 0) log.info({ count }, "tokens_repaired");
      },
    },
    {
      name: "llm_expire",
      everyMs: 30 * SECOND,
      deadlineMs: 15 * SECOND,
      work: (signal) => expire(options, signal),
    },
  ];
}

/** One line for each run, as the worker would have written it that is gone. */
async function reap({ db, log }: LoopOptions, signal: AbortSignal): Promise<void> {
  for (const { tenantId, runId, state, errorCode } of await jobReap(db, { signal })) {
    const facts = { tenant_id: tenantId, run_id: runId, error_code: errorCode };
    if (state === "DEAD_LETTER") log.error(facts, "job_dead_letter");
    else log.warn(facts, "job_failed");
  }
}

/** One line for each hold, as its call would have written it. */
async function expire({ db, log }: LoopOptions, signal: AbortSignal): Promise<void> {
  for (const { tenantId, reservationId, runId } of await llmExpire(db, { signal })) {
    const facts = { tenant_id: tenantId, reservation_id: reservationId, run_id: runId };
    log.warn({ ...facts, reason: "expired" }, "llm_presumed");
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
  const total = { runs: 0, shards: 0 };
  for (let more = true; more; ) {
    const made = await tickOnce(options, signal);
    total.runs += made.runs;
    total.shards += made.shards;
    more = made.shards === SHARDS_PER_TICK;
  }
  if (total.runs > 0) options.log.info(total, "schedule_ticked");
  return total;
}

/** One transaction of the scheduler. A deadlock, which nothing should cause, is counted and tried again. */
async function tickOnce(options: LoopOptions, signal: AbortSignal): Promise<Tick> {
  for (let tries = 0; ; tries += 1) {
    try {
      return await scheduleTick(options.db, SHARDS_PER_TICK, { signal, timeoutMs: TICK_DEADLINE_MS });
    } catch (error) {
      if (!(error instanceof pg.DatabaseError && error.code === "40P01")) throw error;
      const pause = DEADLOCK_PAUSES_MS[tries];
      options.observe?.schedulerDeadlock();
      options.log.warn({ retry_in_ms: pause }, "scheduler_deadlock_detected");
      if (pause === undefined) throw new AppError("scheduler_deadlock_detected", { cause: error });
      await sleep(pause, undefined, { signal });
    }
  }
}
