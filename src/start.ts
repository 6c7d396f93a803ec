// `npm start`: the whole system in one process, for development. A server, a migrated database, sample
// tenants when there is nothing yet, the worker, the endpoint; then the report, and it keeps serving until it
// is told to end.
import { relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { analysisRequest } from "./analyses.ts";
import { mintToken } from "./auth.ts";
import type { Config } from "./config.ts";
import { createPool, type Db } from "./db.ts";
import { AppError } from "./errors.ts";
import { checkFocus, importFocus, importSummary } from "./imports.ts";
import { providerOf } from "./llm.ts";
import type { Log } from "./log.ts";
import type { Metrics } from "./metrics.ts";
import { ANALYSIS_BOUND } from "./narrative.ts";
import { type Api, openDb, processMetrics, startApi, startWork } from "./parts.ts";
import type { Progress } from "./progress.ts";
import { type Ops, reportJson, reportTable, runsLeft } from "./report.ts";
import { addSampleTenants } from "./sample_tenants.ts";
import { writePgpass } from "./secrets.ts";
import { openServer, type Server } from "./server.ts";
import { tenantNamed, tenantsList } from "./tenants.ts";
import { STATEMENT_MS } from "./tickets.ts";
import type { Worker } from "./worker.ts";

/** What the command line asked for. */
export type StartOptions = {
  /** End when the last analysis has ended. */
  once: boolean;
  /** The report as one JSON document instead of a table. */
  json: boolean;
  /** Make the sample tenants in an empty database. */
  sample: boolean;
  importFile: string | undefined;
  tenant: string | undefined;
  /** Where the file comes from: it replaces the months of its own source. */
  source: string;
};

type Context = {
  config: Config<"all">;
  options: StartOptions;
  log: Log;
  progress: Progress;
  /** Aborted by the first Ctrl-C or SIGTERM. */
  signal: AbortSignal;
  /** Aborted by the next one: no run is waited for any more. */
  hastening?: AbortSignal;
};

/** What runs; `fatal` rejects when the queue can go on no longer. */
type System = { server: Server; ops: Ops; work: Db; worker: Worker; api: Api; fatal: Promise<never> };

/**
 * Runs until the report is printed (`once`) or `signal` is aborted; then drains, and stops the server last.
 * Answers whether the report was printed.
 */
export async function start(context: Context): Promise<boolean> {
  const { options, log, progress, signal } = context;
  const closing: (() => Promise<unknown>)[] = [];
  let reported = false;
  try {
    const system = await open(context, closing);
    await Promise.race([report(context, system), system.fatal]);
    reported = true;
    if (!options.once) {
      if (!options.json) process.stdout.write(await whatNow(context.config, system));
      await Promise.race([untilAborted(signal), system.fatal]);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    progress.clear();
    // The newest first: nothing is taken away from under what still uses it.
    for (const close of closing) {
      await close().catch((error: unknown) => log.error({ err: error }, "stop_failed"));
    }
  }
  return reported;
}

/**
 * Starts everything, and imports what there is to import before the first run. `closing` learns how each part
 * ends.
 */
async function open(context: Context, closing: (() => Promise<unknown>)[]): Promise<System> {
  const { config, log, progress, signal } = context;
  const server = await openServer(config, log, progress, signal);
  closing.unshift(() => server.stop());
  const metrics = processMetrics();
  const service = await openDb(config, { name: "service", url: server.url("holdfast_service") }, metrics);
  closing.unshift(() => service.pool.end());
  const workerUrl = server.url("holdfast_worker");
  const work = await openDb(config, { name: "worker", url: workerUrl }, metrics);
  closing.unshift(() => work.pool.end());
  const tasksUrl = config.tasksDatabaseUrl ?? server.url("holdfast_service");
  const tasks = await openDb(config, { name: "tasks", url: tasksUrl }, metrics);
  closing.unshift(() => tasks.pool.end());
  const opsUrl = server.url("holdfast_ops");
  const ops: Ops = {
    pool: createPool({
      connectionString: opsUrl,
      max: 2,
      application_name: "holdfast_ops",
      statement_timeout: STATEMENT_MS, // its role has none: people wait as long as they like
    }),
  };
  closing.unshift(() => ops.pool.end());

  const imported = await importFirst(context, work, ops);
  const { promise: fatal, reject } = Promise.withResolvers<never>();
  fatal.catch(() => {}); // heard in the races of start
  const worker = await startWork(config, { db: work, work: tasks, workerUrl, log, metrics, onFatal: reject });
  closing.unshift(() => worker.stop());
  context.hastening?.addEventListener("abort", worker.hasten, { once: true });
  const api = await listen(context, service, metrics);
  closing.unshift(() => api.stop());
  await worker.tickNow();
  if (imported !== undefined) await analyse(context, work, ops, imported);
  return { server, ops, work, worker, api, fatal };
}

/** Waits until every run that is due has ended, and prints how things stand. */
async function report({ options, progress, signal }: Context, { ops }: System): Promise<void> {
  for (let total: number | undefined; ; ) {
    const { live } = await runsLeft(ops);
    total ??= live;
    if (total > 0) progress.advance("Analyses ended", Math.max(0, total - live), total);
    if (live === 0) break;
    await sleep(150, undefined, { signal });
  }
  const text = await (options.json ? reportJson(ops) : reportTable(ops));
  progress.clear();
  process.stdout.write(`${text}\n`);
}

/** The sample, and the file of the user's own. Answers the tenant whose file it was. */
async function importFirst(context: Context, db: Db, ops: Ops): Promise<string | undefined> {
  const { config, options, log, progress, signal } = context;
  const { importFile: path, tenant, source } = options;
  const given = path === undefined || tenant === undefined ? undefined : { path, tenant };
  if (given !== undefined) await checkFirst(context, ops, given);
  if (options.sample) await addSampleTenants({ db, ops, directory: config.directory, progress, signal, log });
  if (given === undefined) return undefined;

  const tenantId = await tenantNamed(ops, given.tenant);
  const imported = await importFocus(db, tenantId, {
    path: given.path,
    source,
    onProgress: (done) => progress.advance("Rows imported", done),
    signal,
    log,
  });
  progress.clear();
  progress.say(importSummary({ file: given.path, tenant: given.tenant, source }, imported));
  return tenantId;
}

/** A file that will be refused makes no tenant. One that is there has its failed import to show instead. */
async function checkFirst(
  { progress, signal }: Context,
  ops: Ops,
  { path, tenant }: { path: string; tenant: string },
): Promise<void> {
  if ((await tenantsList(ops)).some((each) => each.tenant === tenant)) return;
  await checkFocus({ path, onProgress: (done) => progress.advance("Rows checked", done), signal });
  progress.clear();
}

/** Asks for an analysis of the tenant whose file was imported, unless the tick has made one. */
async function analyse(context: Context, db: Db, ops: Ops, tenantId: string): Promise<void> {
  if ((await runsLeft(ops, tenantId)).live > 0) return;
  const { name, model } = providerOf(context.config.llm);
  try {
    await analysisRequest(db, tenantId, {
      provider: name,
      model,
      inputTokensBound: ANALYSIS_BOUND.inputTokens,
      maxOutputTokens: ANALYSIS_BOUND.maxOutputTokens,
      idempotencyKey: undefined,
    });
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    context.progress.say(`No analysis of the imported file: ${error.code}. ${error.hint ?? ""}`);
  }
}

/** Listens where it was asked to; when another program is there, on a free port. */
async function listen(context: Context, db: Db, metrics: Metrics): Promise<Api> {
  const { config, log, progress } = context;
  try {
    return await startApi(config, { db, log, metrics });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error;
    progress.say(`Port ${config.http.port} is taken by another program; the endpoint takes a free one.`);
    return startApi(config, { db, log, metrics, port: 0 });
  }
}

/** The lines after the report: where it is, and a `curl` and a `psql` that work as they stand. */
async function whatNow(config: Config<"all">, { server, api, ops }: System): Promise<string> {
  const [tenant] = await tenantsList(ops);
  const login = { host: server.host, port: server.port, database: server.database, user: "holdfast_ops" };
  const pgpass = writePgpass(config.directory, { ...login, password: server.password("holdfast_ops") });
  const hostName = login.host.replace(/^\[|\]$/g, "");
  const address = `-h ${hostName} -p ${login.port} -U ${login.user} -d ${quoted(login.database)}`;
  const psql = `PGPASSFILE=${quoted(shortest(pgpass))} psql ${address}`;
  const lines = ["", `holdfast serves on ${api.url} until Ctrl-C.`, ""];
  if (tenant !== undefined) {
    const token = await mintToken(config, {
      tenantId: tenant.tenant_id,
      subject: "npm-start",
      expiresIn: "12h",
    });
    lines.push(
      `The findings of ${tenant.tenant}, over HTTP:`,
      `  curl -H 'Authorization: Bearer ${token}' ${api.url}/v1/findings`,
      "",
    );
  }
  lines.push("Every tenant's, in psql (select * from ops.help shows more):");
  lines.push(`  ${psql} -c 'select tenant, severity, saving, cur, headline from ops.findings limit 20'`, "");
  return `${lines.join("\n")}\n`;
}

/** From the folder in which the user typed the command, where it is below that. */
function shortest(path: string): string {
  const below = relative(process.env["INIT_CWD"] ?? ".", path);
  return below.startsWith("..") ? path : below;
}

function quoted(path: string): string {
  return /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
