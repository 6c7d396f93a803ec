// The worker: graphile-worker takes the tokens of the queue, and loops call the functions that see all tenants.
import { EventEmitter } from "node:events";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { Logger as QueueLogger, type Runner, run as runQueue, type WorkerEvents } from "graphile-worker";
import pg from "pg";
import type { Logger } from "pino";
import { z } from "zod";
import { createPool, type Db } from "./db.ts";
import { AppError } from "./errors.ts";
import { jobReap, llmExpire, maintain, scheduleTick, type Tick } from "./jobs.ts";
import { executeRun, GRACE_MS, type Observe, type RunDeps, type Tasks } from "./runs.ts";

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

/** A tick takes this many rows of the schedule in one transaction, and goes on until no more are due. */
const SHARDS_PER_TICK = 16;
/** How long the transactions of one tick may take together. */
const TICK_DEADLINE_MS = 1 * MINUTE;
/** Waits before a tick that met a deadlock is tried again. */
const DEADLOCK_PAUSES_MS = [1 * SECOND, 2 * SECOND, 4 * SECOND];
/** What a stop may take beyond the drain and the grace: the last ends are written and the connections closed. */
const CLOSING_MS = 10 * SECOND;

/** What a worker is started with. */
export type WorkerOptions = {
  /** The queue's own connections: login holdfast_worker, in session mode, for one of them listens. */
  workerUrl: string;
  /** Where the runs do their work; its pool belongs to the caller and outlives the worker. */
  db: Db;
  tasks: Tasks;
  log: Logger;
  observe?: Observe | undefined;
  /** Runs at a time. */
  concurrency: number;
  tickEveryMs?: number;
  /** How long a stop waits for the runs that are under way, before it aborts them. */
  drainMs?: number;
  /** Called once, after the stop, when the queue can go on no longer: the process should exit, and be restarted. */
  onFatal: (error: unknown) => void;
};

/** A worker that runs. */
export type Worker = {
  /** Takes no new run, waits for those under way, and closes the queue's connections. Bounded; safe to call twice. */
  stop(): Promise<void>;
  /** Ticks now: when it resolves, all that was due has its runs. Throws what the tick threw. */
  tickNow(): Promise<Tick>;
};

type Context = Required<Pick<WorkerOptions, "tickEveryMs" | "drainMs">> & WorkerOptions;

/** A round that ends before the next begins; `signal` is its deadline and the worker's stop. */
type Round = {
  name: string;
  everyMs: number;
  deadlineMs: number;
  work(signal: AbortSignal): Promise<unknown>;
};

/**
 * Starts the queue and the loops; resolves when tokens are taken. The queue's schema must be there and of this
 * version: the worker may not change it. Throws `config_invalid` when it is not.
 */
export async function startWorker(given: WorkerOptions): Promise<Worker> {
  const options: Context = { tickEveryMs: 10 * SECOND, drainMs: 20 * SECOND, ...given };
  const queue = createPool({
    connectionString: withRowSecurity(options.workerUrl),
    max: options.concurrency + 2,
    application_name: "holdfast_queue",
  });
  const runner = await startQueue(options, queue).catch(async (error: unknown) => {
    await queue.end();
    throw error;
  });

  const stopping = new AbortController();
  const ticks = oneAtATime((signal) => tick(options, signal));
  const tickNow = () => within(TICK_DEADLINE_MS, stopping.signal, ticks);
  const loops = rounds(options, ticks).map((round) => loop(options.log, round, stopping.signal));

  let stopped: Promise<void> | undefined;
  const stop = () => {
    stopped ??= drain(options, runner, queue, stopping, loops);
    return stopped;
  };
  const fatal = (error: unknown) => {
    if (stopped !== undefined) return;
    options.log.fatal({ err: error }, "worker_fatal");
    void stop().then(() => options.onFatal(error));
  };
  runner.events.on("pool:fatalError", ({ error }) => fatal(error));
  runner.promise.then(() => fatal(new Error("the queue stopped by itself")), fatal);
  options.log.info({ concurrency: options.concurrency }, "worker_started");
  return { stop, tickNow };
}

/** Its rows are under policies for holdfast_worker, whose other connections keep row security off until they enter. */
function withRowSecurity(workerUrl: string): string {
  const url = new URL(workerUrl);
  const options = [url.searchParams.get("options"), "-c row_security=on"].filter(Boolean).join(" ");
  url.searchParams.set("options", options);
  return url.toString();
}

const Token = z.object({ tenant_id: z.guid(), run_id: z.guid() });

async function startQueue(options: Context, pgPool: pg.Pool): Promise<Runner> {
  const { concurrency, db, log, observe, tasks } = options;
  const events: WorkerEvents = new EventEmitter();
  const deps: RunDeps = { db, log, observe, worker: `${hostname()}:${process.pid}` };
  // The queue marks its locks with this name, so a run's row leads to them.
  events.once("pool:create", ({ workerPool }) => {
    deps.worker += `:${workerPool.id}`;
  });
  try {
    return await runQueue({
      pgPool,
      concurrency,
      events,
      schema: "graphile_worker",
      noHandleSignals: true,
      parsedCronItems: [],
      gracefulShutdownAbortTimeout: options.drainMs,
      logger: queueLogger(log),
      taskList: {
        run: async (payload, { abortSignal }) => {
          const token = Token.parse(payload);
          await executeRun(deps, { tenantId: token.tenant_id, runId: token.run_id }, tasks, abortSignal);
        },
      },
      preset: {
        worker: {
          localQueue: { size: concurrency + 1, ttl: MINUTE, refetchDelay: { durationMs: 100 } },
          // Unset, a finished token may stay locked for four hours when the process ends.
          completeJobBatchDelay: 0,
          failJobBatchDelay: 0,
        },
      },
    });
  } catch (error) {
    throw schemaMissing(error) ? unmigrated(error) : error;
  }
}

/** It tries to make what it misses in its schema, and is refused: undefined table, or insufficient privilege. */
function schemaMissing(error: unknown): boolean {
  return error instanceof pg.DatabaseError && ["42P01", "42501"].includes(error.code ?? "");
}

function unmigrated(cause: unknown): AppError {
  const hint = "Run: npm run db:migrate";
  return new AppError("config_invalid", {
    message: `The queue's schema is missing or older. ${hint}`,
    hint,
    cause,
  });
}

/** Its own lines per job say less than ours, and what it knows of a payload stays out of the log. */
function queueLogger(log: Logger): QueueLogger {
  const levels = { error: "error", warning: "warn", info: "debug", debug: "trace" } as const;
  return new QueueLogger((scope) => (level, message) => {
    log[levels[level]]({ queue: scope.label ?? "core", job_id: scope.jobId }, message);
  });
}

function rounds(options: Context, ticks: Round["work"]): Round[] {
  const { db, log } = options;
  return [
    {
      name: "maintain",
      everyMs: 60 * MINUTE,
      deadlineMs: 5 * MINUTE,
      work: (signal) => maintain(db, { signal, timeoutMs: 5 * MINUTE }),
    },
    { name: "schedule_tick", everyMs: options.tickEveryMs, deadlineMs: TICK_DEADLINE_MS, work: ticks },
    {
      name: "job_reap",
      everyMs: 5 * SECOND,
      deadlineMs: 15 * SECOND,
      work: async (signal) => {
        const runs = await jobReap(db, { signal });
        if (runs > 0) log.warn({ runs }, "job_reaped");
      },
    },
    {
      name: "llm_expire",
      everyMs: 30 * SECOND,
      deadlineMs: 15 * SECOND,
      work: async (signal) => {
        const reservations = await llmExpire(db, { signal });
        if (reservations > 0) log.warn({ reservations }, "llm_expired");
      },
    },
  ];
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

async function tick(options: Context, signal: AbortSignal): Promise<Tick> {
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
async function tickOnce(options: Context, signal: AbortSignal): Promise<Tick> {
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

async function drain(
  options: Context,
  runner: Runner,
  queue: pg.Pool,
  stopping: AbortController,
  loops: Promise<void>[],
): Promise<void> {
  stopping.abort(new AppError("shutdown"));
  const limit = new AbortController();
  const closed = (async () => {
    await Promise.all([...loops, endOfQueue(runner)]);
    await queue.end();
  })();
  const late = sleep(options.drainMs + GRACE_MS + CLOSING_MS, "late", { signal: limit.signal }).catch(
    () => "closed",
  );
  if ((await Promise.race([closed, late])) === "late") options.log.error("worker_stop_forced");
  else options.log.info("worker_stopped");
  limit.abort();
}

/** Waits for the runs under way; one that has stopped by itself is waited for, too. */
async function endOfQueue(runner: Runner): Promise<void> {
  await runner.stop().catch(() => {});
  await runner.promise.catch(() => {});
}
