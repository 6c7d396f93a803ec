// The parts of a running system: the HTTP endpoint and the worker. `npm start` runs both; in production each is a process.
import { readFileSync } from "node:fs";
import analysis from "../tasks/analysis.ts";
import type { Config } from "./config.ts";
import { createPool, type Db } from "./db.ts";
import { createApp } from "./http.ts";
import { type Llm, providerOf } from "./llm.ts";
import type { Log } from "./log.ts";
import {
  refuseLostSettings,
  refuseOtherLogin,
  refuseUnsafeLogin,
  refuseWrongTicketKey,
} from "./login_check.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import { newestMigration, projectFile } from "./migrate.ts";
import { databaseReadiness } from "./routes/probes.ts";
import { startWorker, type Worker } from "./worker.ts";

/** The version in package.json. */
export const VERSION: string = JSON.parse(readFileSync(projectFile("package.json"), "utf8")).version;

/** An endpoint that listens. `stop` answers what is under way and closes; it is safe to call twice. */
export type Api = { url: string; stop(): Promise<void> };

/** The login of each part: what the part needs is its right, and nothing beyond. */
const LOGINS = { service: "holdfast_service", worker: "holdfast_worker", import: "holdfast_worker" } as const;

/** The metrics of one process. */
export function processMetrics(): Metrics {
  return createMetrics({ version: VERSION, jobTypes: ["analysis"] });
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
    max: config.databasePoolSize,
    application_name: `holdfast_${login.name}`,
  });
  metrics.watchPool(login.name, pool);
  const { ticketKey } = config;
  const onRlsRefusal = metrics.rlsEnforcementFailed;
  try {
    await refuseUnsafeLogin({ pool }, config.environment);
    await refuseOtherLogin({ pool }, LOGINS[login.name]);
    await refuseLostSettings({ pool });
    const ticketBinding = await refuseWrongTicketKey({ pool, ticketKey });
    return { pool, ticketKey, ticketBinding, onRlsRefusal };
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

/** Starts the worker with every task there is. `onFatal` is called when the queue can go on no longer. */
export async function startWork(
  config: Config,
  given: { db: Db; workerUrl: string; log: Log; metrics: Metrics; onFatal: (error: unknown) => void },
): Promise<Worker> {
  const { db, workerUrl, log, metrics, onFatal } = given;
  const provider = providerOf(config.llm);
  const llm: Llm = { db, log, provider, deadlineMs: config.llm.deadlineMs, observe: metrics.llm(provider) };
  return startWorker({
    workerUrl,
    db,
    tasks: { analysis: analysis(llm) },
    log,
    observe: metrics.runs,
    concurrency: config.workerConcurrency,
    callMs: config.llm.deadlineMs,
    onFatal,
  });
}
