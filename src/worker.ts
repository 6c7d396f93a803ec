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
import type { Tick } from "./jobs.ts";
import { endOfCalls } from "./llm/open_calls.ts";
import { startLoops } from "./loops.ts";
import { executeRun, GRACE_MS, type Observe, type RunDeps, type Tasks } from "./runs.ts";

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
/** How long a start waits until the queue hears of new tokens; without that it polls. */
const LISTEN_MS = 5 * SECOND;
/** How long after a notice of a migration the list of them is read: notices in between cost no query of their own. */
const LOOK_MS = 1 * SECOND;

/** A drain is as long as a call of a task may be out, within these: a stop takes 42 s at most. */
const DRAIN_MS = { least: 20 * SECOND, most: 30 * SECOND };
/** What a stop may take beyond drain and grace: the last ends are written and the connections closed. */
const CLOSING_MS = 10 * SECOND;
/** How much of it is left to the calls that their runs have left behind, before they are cut. */
const LAST_CALLS_MS = 5 * SECOND;

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
  /** Ticks now: when it resolves, all that was due has its runs. Throws what the tick threw. */
  tickNow(): Promise<Tick>;
};

type Context = Required<Pick<WorkerOptions, "tickEveryMs" | "drainMs">> & WorkerOptions;

/**
 * Starts the queue and the loops; resolves when tokens are taken. The queue's schema must be there and of
 * this version: the worker may not change it. Throws `config_invalid` when it is not.
 */
export async function startWorker(given: WorkerOptions): Promise<Worker> {
  const options: Context = { tickEveryMs: 10 * SECOND, drainMs: drainMsFor(given.callMs ?? 0), ...given };
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
  const loops = startLoops(options, stopping.signal);

  let stopped: Promise<void> | undefined;
  const stop = () => {
    stopped ??= drain(options, runner, queue, stopping, loops.ended);
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
  return { stop, tickNow: loops.tickNow };
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

async function startQueue(options: Context, pgPool: pg.Pool): Promise<Runner> {
  const { concurrency, db, log, observe, tasks } = options;
  const events: WorkerEvents = new EventEmitter();
  const deps: RunDeps = { db, log, observe, worker: `${hostname()}:${process.pid}` };
  // The queue marks its locks with this name, so a run's row leads to them.
  events.once("pool:create", ({ workerPool }) => {
    deps.worker += `:${workerPool.id}`;
  });
  const listening = once(events, "pool:listen:success", { signal: AbortSignal.timeout(LISTEN_MS) }).then(
    () => true,
    () => false,
  );
  try {
    doubtNotices(events, pgPool, log, await breakingMigration(pgPool));
    const runner = await runQueue({
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
          // The abort threshold: a token that is told during the delay is fetched at once, not at the
          // next poll.
          localQueue: {
            size: concurrency + 1,
            ttl: MINUTE,
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

async function drain(
  options: Context,
  runner: Runner,
  queue: pg.Pool,
  stopping: AbortController,
  loopsEnded: Promise<unknown>,
): Promise<void> {
  stopping.abort(new AppError("shutdown"));
  const limit = new AbortController();
  const closed = (async () => {
    await Promise.all([loopsEnded, endOfQueue(runner)]);
    await endOfCalls(options.db, LAST_CALLS_MS);
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
