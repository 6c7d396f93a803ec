// The worker: graphile-worker takes the tokens of the queue; loops keep schedule, leases and holds moving.
import { EventEmitter, once } from "node:events";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import {
  Logger as QueueLogger,
  type Runner,
  run as runQueue,
  type WorkerEvents,
  type WorkerPool,
} from "graphile-worker";
import pg from "pg";
import type { Logger } from "pino";
import { z } from "zod";
import { createPool, type Db } from "./db.ts";
import { AppError } from "./errors.ts";
import {
  type EndedAttempt,
  jobClaim,
  jobCompleteMany,
  type WorkerFacts,
  workerBeat,
  workerStop,
} from "./jobs.ts";
import { endOfCalls } from "./llm/open_calls.ts";
import { type Loops, startLoops, type Tick } from "./loops.ts";
import { type Beats, startBeats } from "./runs/beats.ts";
import { coalesced } from "./runs/coalesced.ts";
import { executeRun, GRACE_MS, type Observe, type RunDeps, type RunToken } from "./runs.ts";
import { byKind, refuseUnknownKinds, type Tasks } from "./tasks.ts";

const SECOND = 1_000;
/** A token that no handler was free for goes back after this, for another worker. */
const KEPT_MS = 5 * SECOND;
/** How long a start waits until the queue hears of new tokens; without that it polls. */
const LISTEN_MS = 5 * SECOND;
/** How long after a notice of a migration the list of them is read: notices in between cost no query of their own. */
const LOOK_MS = 1 * SECOND;

/** A drain is as long as a call of a task may be out, within these: a stop takes 42 s at most. */
const DRAIN_MS = { least: 20 * SECOND, most: 30 * SECOND };
/** What a stop may take beyond drain and grace: the last ends are written and the connections closed. */
const CLOSING_MS = 10 * SECOND;
/** What a hastened stop may take beyond the grace. */
const HASTENED_MS = 3 * SECOND;
/** How much of it is left to the calls that their runs have left behind, before they are cut. */
const LAST_CALLS_MS = 5 * SECOND;

/** What a worker is started with. */
export type WorkerOptions = {
  /** The queue's own connections: login holdfast_worker, in session mode, for one of them listens. */
  workerUrl: string;
  /** Where the protocol of runs goes, as holdfast_worker; its pool belongs to the caller and outlives the worker. */
  db: Db;
  /** Where tasks work, as holdfast_service, with two connections for each run at a time; the caller's, too. */
  work: Db;
  /** The version of this program, for `ops.workers`. */
  version?: string;
  tasks: Tasks;
  log: Logger;
  observe?: Observe | undefined;
  /** Runs at a time. */
  concurrency: number;
  tickEveryMs?: number;
  /** How often a tick that met a deadlock is tried again; 3. */
  deadlockRetries?: number;
  /** So many handlers that outlive their attempts end the worker, with `job_handlers_leaked`; 5. */
  leakedHandlersMax?: number;
  /** How long one call of a task may be out; a stop waits that long for its answer, up to 30 s. */
  callMs?: number;
  /** How long a stop waits for the runs that are under way, before it aborts them; `callMs`, 20 s to 30 s. */
  drainMs?: number;
  /** Called after the stop, when the queue can go on no longer: the process should exit, to be restarted. */
  onFatal: (error: unknown) => void;
};

/** A worker that runs. */
export type Worker = {
  /**
   * Takes no new run, waits for those under way and for the calls they left behind, closes the queue: then
   * the caller may end the pool of `db`. Takes `drainMs` and 12 s at most; may be called twice.
   */
  stop(): Promise<void>;
  /** Makes a stop wait no longer: runs are aborted now, and wait for the next worker. It ends within 5 s. */
  hasten(): void;
  /** Ticks now: when it resolves, all that was due has its runs, or half a minute has passed. Throws what the tick threw. */
  tickNow(): Promise<Tick>;
};

type Context = WorkerOptions &
  Required<
    Pick<WorkerOptions, "tickEveryMs" | "drainMs" | "deadlockRetries" | "leakedHandlersMax" | "version">
  >;

/** What ends, part by part, when the worker stops. */
type Parts = {
  runner: Runner;
  queue: pg.Pool;
  loops: Loops;
  beats: Beats;
  worker: string;
  /** Ends the loops; then the runs; then the patience with what does not end. */
  stopping: AbortController;
  shutdown: AbortController;
  hastened: AbortController;
};

/**
 * Starts the queue and the loops; resolves when tokens are taken. The queue's schema must be there and of
 * this version: the worker may not change it. Throws `config_invalid` when it is not, and when a task has no row in
 * `app.job_kinds`.
 */
export async function startWorker(given: WorkerOptions): Promise<Worker> {
  const defaults = { tickEveryMs: 10 * SECOND, deadlockRetries: 3, leakedHandlersMax: 5, version: "0" };
  const options: Context = { ...defaults, drainMs: drainMsFor(given.callMs ?? 0), ...given };
  await refuseUnknownKinds(options.db, options.tasks);
  const queue = createPool({
    connectionString: withRowSecurity(options.workerUrl),
    max: options.concurrency + 2,
    application_name: "holdfast_queue",
  });
  const [stopping, shutdown, hastened] = [0, 1, 2].map(() => new AbortController()) as [
    AbortController,
    AbortController,
    AbortController,
  ];
  const deps = { ...depsOf(options, queue), onLeak: (count: number) => leaked(count) };
  let parts: Parts | undefined;
  let stopped: Promise<void> | undefined;
  try {
    const runner = await startQueue(options, queue, deps, shutdown.signal);
    const beats = await startBeats(
      (running, signal) => workerBeat({ pool: queue }, deps.facts, running, { signal }),
      deps.live,
      options.log,
    ).catch(async (error: unknown) => {
      await endOfQueue(runner);
      throw error;
    });
    const loops = startLoops(options, stopping.signal);
    parts = { runner, queue, loops, beats, worker: deps.facts.worker, stopping, shutdown, hastened };
  } catch (error) {
    await queue.end();
    throw error;
  }
  const { runner, loops } = parts;

  const stop = () => {
    stopped ??= drain(options, parts);
    return stopped;
  };
  const fatal = (error: unknown) => {
    if (stopped !== undefined) return;
    options.log.fatal({ err: error }, "worker_fatal");
    void stop().then(() => options.onFatal(error));
  };
  function leaked(count: number): void {
    if (count < options.leakedHandlersMax) return;
    fatal(
      new AppError("job_handlers_leaked", {
        detail: { count },
        hint: "Handlers that ignore their signal hold memory until the process ends: it must be started again.",
      }),
    );
  }
  runner.events.on("pool:fatalError", ({ error }) => fatal(error));
  runner.promise.then(() => fatal(new Error("the queue stopped by itself")), fatal);
  options.log.info({ concurrency: options.concurrency, worker: parts.worker }, "worker_started");
  return { stop, hasten: () => hastened.abort(), tickNow: loops.tickNow };
}

/** The queue's pool has a connection to spare when that of the runs has none: claims, beats and ends must not wait. */
function depsOf(options: Context, queue: pg.Pool): RunDeps & { facts: WorkerFacts } {
  const { db, work, log, observe, tasks, version, concurrency } = options;
  const kinds = tasks.map((each) => each.kind);
  const facts = { worker: "", pool: "", host: hostname(), pid: process.pid, version, kinds, concurrency };
  const claim = coalesced(
    (runs: RunToken[]) => jobClaim({ pool: queue }, facts.worker, runs),
    (seconds) => observe?.claimSeconds(seconds),
  );
  const complete = coalesced((ended: EndedAttempt[]) => jobCompleteMany({ pool: queue }, ended));
  return { db, work, log, observe, claim, complete, live: new Set(), facts };
}

/** How long a drain is unless it is told: as long as a call may be out, 20 s to 30 s. */
export function drainMsFor(callMs: number): number {
  return Math.min(Math.max(callMs, DRAIN_MS.least), DRAIN_MS.most);
}

/** The queue's rows are under policies; elsewhere this login keeps row security off until it enters. */
function withRowSecurity(workerUrl: string): string {
  const url = new URL(workerUrl);
  const options = [url.searchParams.get("options"), "-c row_security=on"].filter(Boolean).join(" ");
  url.searchParams.set("options", options);
  return url.toString();
}

const Token = z.object({ tenant_id: z.guid(), run_id: z.guid() });

async function startQueue(
  options: Context,
  pgPool: pg.Pool,
  deps: RunDeps & { facts: WorkerFacts },
  shutdown: AbortSignal,
): Promise<Runner> {
  const { concurrency, log } = options;
  const tasks = byKind(options.tasks);
  const events: WorkerEvents = new EventEmitter();
  // The queue marks its locks with this name, so a run's row leads to them.
  events.once("pool:create", ({ workerPool }) => {
    const { host, pid } = deps.facts;
    Object.assign(deps.facts, { pool: workerPool.id, worker: `${host}:${pid}:${workerPool.id}` });
  });
  const listening = once(events, "pool:listen:success", { signal: AbortSignal.timeout(LISTEN_MS) }).then(
    () => true,
    () => false,
  );
  try {
    doubtNotices(events, pgPool, log, await breakingMigration(pgPool));
    letLocalQueueEnd(events);
    const runner = await runQueue({
      pgPool,
      concurrency,
      events,
      schema: "graphile_worker",
      noHandleSignals: true,
      parsedCronItems: [],
      gracefulShutdownAbortTimeout: options.drainMs, // nobody listens: the runs are aborted by the stop
      logger: queueLogger(log),
      taskList: {
        run: async (payload, { job }) => {
          const { tenant_id: tenantId, run_id: runId } = Token.parse(payload);
          await executeRun(deps, { tenantId, runId, dueAt: job.run_at }, tasks, shutdown);
        },
      },
      preset: {
        worker: {
          // The abort threshold: a token that is told during the delay is fetched at once, not at the
          // next poll.
          localQueue: {
            size: concurrency + 1,
            ttl: KEPT_MS,
            refetchDelay: { durationMs: 100, maxAbortThreshold: 1 },
          },
          // Unset, a finished token may stay locked for four hours when the process ends.
          completeJobBatchDelay: 0,
          failJobBatchDelay: 0,
        },
      },
    });
    // A token that is queued before the queue listens would wait for its next poll.
    if (!(await listening)) log.warn("queue_not_listening");
    return runner;
  } catch (error) {
    throw schemaMissing(error) ? unmigrated(error) : error;
  }
}

/**
 * graphile-worker 0.18.0 cannot give back the tokens that it holds locally when it is stopped with nothing under way: it
 * refuses its own call, and reports that as six errors. One thing more under way, for a moment, is all that it lacks.
 */
function letLocalQueueEnd(events: WorkerEvents): void {
  events.on("localQueue:setMode", ({ localQueue, newMode }) => {
    if (newMode !== "RELEASED") return;
    const queue = localQueue as unknown as { backgroundCount: number; decreaseBackgroundCount(): void };
    queue.backgroundCount += 1;
    setImmediate(() => queue.decreaseBackgroundCount());
  });
}

/**
 * NOTIFY needs no right: whoever may run SQL could tell every worker that the queue's schema has changed for good, and
 * graphile-worker would stop. So a notice says only that something came; what has changed is read from the list of
 * migrations. A breaking one beyond `known`, which was the last when graphile-worker compared the list with its own at
 * the start, stops it, as its own check would.
 */
function doubtNotices(events: WorkerEvents, pgPool: pg.Pool, log: Logger, known: number): void {
  let looking = false;
  const look = async (workerPool: WorkerPool): Promise<void> => {
    if (looking) return;
    looking = true;
    await sleep(LOOK_MS, undefined, { ref: false });
    looking = false;
    if (pgPool.ending) return;
    try {
      const last = await breakingMigration(pgPool);
      if (last <= known) return;
      log.error({ known, last }, "queue_migrated_beyond");
      void workerPool.gracefulShutdown();
    } catch (error) {
      log.warn({ err: error }, "queue_migrations_unread");
      void look(workerPool);
    }
  };
  events.on("pool:listen:notification", ({ message, workerPool }) => {
    // It reads the payload after this event. An empty one tells of one token, and of no breaking migration.
    message.payload = "";
    if (message.channel === "worker:migrate") void look(workerPool);
  });
}

/** The number of the last migration of the queue's schema that older programs cannot work with. */
async function breakingMigration(pgPool: pg.Pool): Promise<number> {
  const { rows } = await pgPool.query<{ last: number }>(
    "select coalesce(max(id), 0) as last from graphile_worker.migrations where breaking",
  );
  return rows[0]!.last;
}

/** What the schema lacks is undefined: a table, a column. It tries to make it, and has insufficient privilege. */
function schemaMissing(error: unknown): boolean {
  return error instanceof pg.DatabaseError && ["42P01", "42703", "42501"].includes(error.code ?? "");
}

function unmigrated(cause: unknown): AppError {
  const hint = "Run: npm run db:migrate";
  return new AppError("config_invalid", {
    message: `The queue's schema is missing, older than this program, or not granted to this login. ${hint}`,
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

async function drain(options: Context, parts: Parts): Promise<void> {
  const { runner, queue, loops, beats, stopping, shutdown, hastened } = parts;
  stopping.abort(new AppError("shutdown"));
  const closed = new AbortController();
  const abortRuns = () => shutdown.abort(new AppError("shutdown"));
  void pause(options.drainMs, closed.signal, hastened.signal).then(abortRuns);
  const closing = (async () => {
    await Promise.all([loops.ended, endOfQueue(runner)]);
    await endOfCalls(options.work, hastened.signal.aborted ? 0 : LAST_CALLS_MS);
    await beats.stop();
    await workerStop({ pool: queue }, parts.worker).catch((error: unknown) => {
      options.log.warn({ err: error }, "worker_stop_untold"); // it is found by its silence
    });
    await queue.end();
    return "closed";
  })();
  const late = pause(options.drainMs + GRACE_MS + CLOSING_MS, closed.signal, hastened.signal)
    .then(() => pause(hastened.signal.aborted ? GRACE_MS + HASTENED_MS : 0, closed.signal))
    .then(() => "late");
  if ((await Promise.race([closing, late])) === "late") options.log.error("worker_stop_forced");
  else options.log.info("worker_stopped");
  closed.abort();
}

/** Resolves after `ms`, or when one of the signals is aborted. */
async function pause(ms: number, ...until: AbortSignal[]): Promise<void> {
  await sleep(ms, undefined, { signal: AbortSignal.any(until) }).catch(() => {});
}

/** Waits for the runs under way; one that has stopped by itself is waited for, too. */
async function endOfQueue(runner: Runner): Promise<void> {
  await runner.stop().catch(() => {});
  await runner.promise.catch(() => {});
}
