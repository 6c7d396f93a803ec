// `npm start`: the whole system in one process, for development. A server, a migrated database, sample tenants when there
// is nothing yet, the worker, the endpoint; then the report, and it keeps serving until it is told to end.
import { relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { analysisRequest } from "./analyses.ts";
import { mintToken } from "./auth.ts";
import type { Config } from "./config.ts";
import { createPool, type Db } from "./db.ts";
import { AppError } from "./errors.ts";
import { importFocus } from "./imports.ts";
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
};

type Context = {
  config: Config<"all">;
  options: StartOptions;
  log: Log;
  progress: Progress;
  /** Aborted by the first Ctrl-C or SIGTERM. */
  signal: AbortSignal;
};

/** Runs until the report is printed (`once`) or `signal` is aborted; then drains, and stops the server last. */
export async function start(context: Context): Promise<void> {
  const { config, log, progress, signal } = context;
  const closing: (() => Promise<unknown>)[] = [];
  try {
    const server = await openServer(config, log, progress, signal);
    closing.unshift(() => server.stop());
    await run(context, server, closing);
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    progress.clear();
    // The newest first: nothing is taken away from under what still uses it.
    for (const close of closing)
      await close().catch((error: unknown) => log.error({ err: error }, "stop_failed"));
  }
}

async function run(context: Context, server: Server, closing: (() => Promise<unknown>)[]): Promise<void> {
  const { config, options, log, progress, signal } = context;
  const metrics = processMetrics();
  const service = await openDb(config, { name: "service", url: server.url("holdfast_service") }, metrics);
  closing.unshift(() => service.pool.end());
  const work = await openDb(config, { name: "worker", url: server.url("holdfast_worker") }, metrics);
  closing.unshift(() => work.pool.end());
  const ops: Ops = {
    pool: createPool({
      connectionString: server.url("holdfast_ops"),
      max: 2,
      application_name: "holdfast_ops",
    }),
  };
  closing.unshift(() => ops.pool.end());

  const imported = await importFirst(context, work, ops);
  const fatal = Promise.withResolvers<never>();
  const worker = await startWork(config, {
    db: work,
    workerUrl: server.url("holdfast_worker"),
    log,
    metrics,
    onFatal: fatal.reject,
  });
  closing.unshift(() => worker.stop());
  const api = await listen(context, service, metrics);
  closing.unshift(() => api.stop());

  const ended = (async () => {
    await analyseAll(context, worker, work, ops, imported);
    const report = await (options.json ? reportJson(ops) : reportTable(ops));
    progress.clear();
    process.stdout.write(`${report}\n`);
    if (options.once) return;
    if (!options.json) process.stdout.write(await whatNow(config, server, api, ops));
    await untilAborted(signal);
  })();
  await Promise.race([ended, fatal.promise]);
}

/** The sample, and the file of the user's own. Answers the tenant whose file it was. */
async function importFirst(context: Context, db: Db, ops: Ops): Promise<string | undefined> {
  const { config, options, progress, signal } = context;
  if (options.sample) await addSampleTenants({ db, ops, directory: config.directory, progress, signal });
  if (options.importFile === undefined || options.tenant === undefined) return undefined;

  const tenantId = await tenantNamed(ops, options.tenant);
  const { rows, flaggedRows } = await importFocus(db, tenantId, {
    path: options.importFile,
    source: "import",
    onProgress: (done) => progress.advance(`Rows of ${options.importFile}`, done, Number.POSITIVE_INFINITY),
    signal,
  });
  progress.clear();
  progress.say(
    `Imported ${rows} rows for ${options.tenant}, ${flaggedRows} of them with a data-quality flag.`,
  );
  return tenantId;
}

/** Waits until every run that is due has ended. A file that was just imported is analysed whether or not it is due. */
async function analyseAll(
  context: Context,
  worker: Worker,
  db: Db,
  ops: Ops,
  imported: string | undefined,
): Promise<void> {
  const { progress, signal } = context;
  const before = await runsLeft(ops);
  await worker.tickNow();
  if (imported !== undefined) await analyse(context, db, ops, imported);
  for (;;) {
    const { live, ended } = await runsLeft(ops);
    const total = live + ended - before.ended;
    if (total > 0) progress.advance("Analyses ended", total - live, total);
    if (live === 0) return;
    await sleep(150, undefined, { signal });
  }
}

/** Asks for an analysis of a tenant, unless the tick has made one. */
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
async function whatNow(config: Config<"all">, server: Server, api: Api, ops: Ops): Promise<string> {
  const [tenant] = await tenantsList(ops);
  const login = { host: server.host, port: server.port, database: server.database, user: "holdfast_ops" };
  const pgpass = writePgpass(config.directory, { ...login, password: server.password("holdfast_ops") });
  const psql = `PGPASSFILE=${quoted(relative(".", pgpass))} psql -h ${login.host} -p ${login.port} -U ${login.user} -d ${login.database}`;
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

function quoted(path: string): string {
  return /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
