// The parts of a running system: the HTTP endpoint and the worker. `npm start` runs both; in production each is a process.
import { readFileSync } from "node:fs";
import analysis from "../tasks/analysis.ts";
import costImport from "../tasks/cost_import.ts";
import detection from "../tasks/detection.ts";
import type { Config } from "./config.ts";
import { createPool, type Db } from "./db.ts";
import { AppError } from "./errors.ts";
import { createApp, createProbes, type HttpApp } from "./http.ts";
import { startSpool } from "./llm/spool.ts";
import { type Llm, providerOf } from "./llm.ts";
import type { Log } from "./log.ts";
import {
  refuseLostSettings,
  refuseOtherLogin,
  refuseUnsafeLogin,
  refuseWrongTicketKey,
} from "./login_check.ts";
import { jobMetrics } from "./metrics/database.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import { newestMigration, projectFile } from "./migrate.ts";
import { databaseReadiness, workerReadiness } from "./routes/probes.ts";
import { startWorker, type Worker } from "./worker.ts";

/** The version in package.json. */
export const VERSION: string = JSON.parse(readFileSync(projectFile("package.json"), "utf8")).version;

/** An endpoint that listens. `stop` answers what is under way and closes; it is safe to call twice. */
export type Api = { url: string; stop(): Promise<void> };

/** The login of each part: what the part needs is its right, and nothing beyond. */
const LOGINS = {
  service: "holdfast_service",
  worker: "holdfast_worker",
  import: "holdfast_worker",
  tasks: "holdfast_service",
} as const;

/** The metrics of one process. */
export function processMetrics(): Metrics {
  return createMetrics({ version: VERSION, jobTypes: ["cost_import", "detection", "analysis"] });
}

/**
 * Opens a pool for a part and shows it in the metrics, its refused tenants too. Refuses a login that row security does
 * not bind or that is not the part's own, and a ticket key that the database does not let in: `role_unsafe`,
 * `config_invalid`.
 */
export async function openDb(
  config: Config,
  login: { name: keyof typeof LOGINS; url: string },
  metrics: Metrics,
): Promise<Db> {
  const pool = createPool({
    connectionString: login.url,
    // A run may keep one for its work transaction, and make a call beside it.
    max: login.name === "tasks" ? 2 * config.workerConcurrency + 1 : config.databasePoolSize,
    application_name: `holdfast_${login.name}`,
  });
  metrics.watchPool(login.name, pool);
  const { ticketKey } = config;
  const onRlsRefusal = metrics.rlsEnforcementFailed;
  try {
    await refuseUnsafeLogin({ pool }, config.environment);
    const variable = login.name === "tasks" ? "TASKS_DATABASE_URL" : "DATABASE_URL";
    await refuseOtherLogin({ pool }, LOGINS[login.name], variable);
    await refuseLostSettings({ pool });
    const ticketBinding = await refuseWrongTicketKey({ pool, ticketKey });
    const budgets = { lockTimeoutMs: config.budgetLockTimeoutMs, observe: metrics.budgets };
    return { pool, ticketKey, ticketBinding, onRlsRefusal, budgets };
  } catch (error) {
    await pool.end();
    throw error;
  }
}

/** Starts the HTTP endpoint. Throws what `listen` throws: EADDRINUSE where the port is taken. */
export async function startApi(
  config: Config & { jwtSecretKey: Buffer },
  given: { db: Db; log: Log; metrics: Metrics; port?: number },
): Promise<Api> {
  const { db, log, metrics } = given;
  const { name, model } = providerOf(config.llm);
  const migration = newestMigration();
  const { app, drain } = createApp({
    db,
    config,
    log,
    metrics,
    llm: { provider: name, model },
    ready: () => databaseReadiness(db, migration),
  });
  const url = await app.listen({ host: config.http.host, port: given.port ?? config.http.port });
  log.info({ url }, "api_started");
  let stopped: Promise<void> | undefined;
  return {
    url,
    stop() {
      drain();
      stopped ??= app.close().then(() => log.info("api_stopped"));
      return stopped;
    },
  };
}

/** Probes that listen: `drain` makes `/readyz` refuse, `stop` closes; both may be called twice. */
export type Probes = Api & Pick<HttpApp, "drain">;

/**
 * Serves `/livez`, `/readyz` and `/metrics` of a worker's process. Throws `config_invalid` where the port is taken.
 */
export async function startProbes(
  config: Config,
  { db, log, metrics }: { db: Db; log: Log; metrics: Metrics },
): Promise<Probes> {
  const migration = newestMigration();
  const { app, drain } = createProbes({ log, metrics, ready: () => workerReadiness(db, migration) });
  const url = await app.listen(config.metrics).catch(portTaken);
  log.info({ url }, "probes_started");
  let stopped: Promise<void> | undefined;
  return {
    url,
    drain,
    stop() {
      stopped ??= app.close();
      return stopped;
    },
  };
}

function portTaken(error: NodeJS.ErrnoException): never {
  if (error.code !== "EADDRINUSE") throw error;
  throw new AppError("config_invalid", {
    message: `the address of the worker's probes is taken: ${error.message}`,
    hint: "Set METRICS_PORT; 0 takes a free one.",
    cause: error,
  });
}

/** What a worker is started with; `work` is where its tasks work. */
export type Workplace = {
  db: Db;
  work: Db;
  workerUrl: string;
  log: Log;
  metrics: Metrics;
  onFatal: (error: unknown) => void;
};

/** Starts the worker with every task there is. `onFatal` is called when it can go on no longer. */
export async function startWork(config: Config, given: Workplace): Promise<Worker> {
  const { db, work, workerUrl, log, metrics, onFatal } = given;
  metrics.watchDatabase(() => jobMetrics(db));
  const provider = providerOf(config.llm);
  const spool = startSpool({ directory: config.spoolDirectory, db: work, log });
  const llm: Llm = {
    db: work,
    log,
    provider,
    deadlineMs: config.llm.deadlineMs,
    observe: metrics.llm(provider),
    spool,
  };
  const worker = await startWorker({
    workerUrl,
    db,
    work,
    version: VERSION,
    tasks: [costImport(work), detection(), analysis(llm)],
    log,
    observe: metrics.runs,
    concurrency: config.workerConcurrency,
    deadlockRetries: config.deadlockRetries,
    leakedHandlersMax: config.leakedHandlersMax,
    callMs: config.llm.deadlineMs,
    onFatal,
  }).catch(async (error: unknown) => {
    await spool.stop();
    throw error;
  });
  // The last calls end with the worker: what they could not write is on the disk by then.
  return { ...worker, stop: () => worker.stop().then(spool.stop) };
}
