// The command line. `npm start`, `npm run api`, `npm run worker` and `npm run db:migrate` all come here.
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { type Config, readConfig } from "./config.ts";
import { fail } from "./exit.ts";
import { createLog } from "./log.ts";
import { migrateDatabase } from "./migrate.ts";
import { openDb, processMetrics, startApi, startWork, VERSION } from "./parts.ts";
import { Progress } from "./progress.ts";
import { start } from "./start.ts";

const HELP = `holdfast ${VERSION}

  npm start                       the whole system, for development: PostgreSQL, worker, HTTP endpoint
  npm start -- --once             the same, and end when the last analysis has ended
  npm start -- --json             print the report as one JSON document on stdout (npm start --silent keeps npm quiet)
  npm start -- --import FILE --tenant NAME
                                  first import a FOCUS cost file (CSV, plain or gzip) for a tenant, made if it is new
  npm start -- --no-sample        make no sample tenants in an empty database

  npm run db:migrate              bring the database of DATABASE_URL (login holdfast_admin) to the newest migration
  npm run api                     the HTTP endpoint alone (login holdfast_service)
  npm run worker                  the worker alone (login holdfast_worker)

Settings come from the environment; .env.example lists them all. Exit: 0 done, 1 failed, 2 wrong usage, 130 ended before the report.`;

/** How long an end may take before the process goes without it, in ms: the worker's drain is 20 s of it. */
const STOP_MS = 45_000;
const SAME_WISH_MS = 1_000;

const stopping = new AbortController();
const commands = new Map<string, (options: Options) => Promise<void>>([
  ["start", runStart],
  ["api", runApi],
  ["worker", runWorker],
  ["migrate", runMigrate],
]);

type Options = ReturnType<typeof readOptions>["values"];

if (existsSync(".env")) process.loadEnvFile(".env");
try {
  const { positionals, values } = readOptions();
  const command = commands.get(positionals[0] ?? "start");
  if (values.help) process.stdout.write(`${HELP}\n`);
  else if (values.version) process.stdout.write(`${VERSION}\n`);
  else if (command === undefined || positionals.length > 1)
    usage(`There is no command ${positionals.join(" ")}.`);
  else {
    endOnSignals();
    await command(values);
  }
} catch (error) {
  fail(error);
}

function readOptions() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        once: { type: "boolean", default: false },
        json: { type: "boolean", default: false },
        "no-sample": { type: "boolean", default: false },
        import: { type: "string" },
        tenant: { type: "string" },
        help: { type: "boolean", short: "h", default: false },
        version: { type: "boolean", short: "v", default: false },
      },
    });
  } catch (error) {
    return usage((error as Error).message);
  }
}

async function runStart(options: Options): Promise<void> {
  if ((options.import === undefined) !== (options.tenant === undefined)) {
    usage("--import FILE and --tenant NAME go together.");
  }
  const config = readConfig("all");
  const progress = new Progress();
  const log = createLog({ level: config.logLevel, part: "all", destination: progress.log });
  const { once, json, import: given, tenant } = options;
  const sample = !options["no-sample"];
  const importFile = given === undefined ? undefined : resolve(process.env["INIT_CWD"] ?? ".", given);
  const reported = await start({
    config,
    log,
    progress,
    signal: stopping.signal,
    options: { once, json, sample, importFile, tenant },
  });
  if (!reported) process.exitCode = 130;
}

async function runApi(): Promise<void> {
  const config = readConfig("api");
  const log = createLog({ level: config.logLevel, part: "api" });
  const metrics = processMetrics();
  const db = await openDb(config, { name: "service", url: config.databaseUrl }, metrics);
  try {
    const api = await startApi(config, { db, log, metrics });
    await stopped();
    await api.stop();
  } finally {
    await db.pool.end();
  }
}

async function runWorker(): Promise<void> {
  const config = readConfig("worker");
  const workerUrl = config.databaseUrl;
  const log = createLog({ level: config.logLevel, part: "worker" });
  const metrics = processMetrics();
  const db = await openDb(config, { name: "worker", url: workerUrl }, metrics);
  const fatal = Promise.withResolvers<never>();
  try {
    const worker = await startWork(config, { db, workerUrl, log, metrics, onFatal: fatal.reject });
    await Promise.race([stopped(), fatal.promise]);
    await worker.stop();
  } finally {
    await db.pool.end();
  }
}

async function runMigrate(): Promise<void> {
  const config: Config<"migrate"> = readConfig("migrate");
  const log = createLog({ level: config.logLevel, part: "migrate" });
  await migrateDatabase(config.databaseUrl, config.ticketKey, log);
  log.info("migrated");
}

/**
 * The first signal ends in order, a later one at once. Ctrl-C reaches this process twice, from the terminal and from npm,
 * so what comes within a second of the first is the same wish. A reader that went away is a wish to end, too.
 */
function endOnSignals(): void {
  let first = Number.POSITIVE_INFINITY;
  const end = (cause: string) => {
    if (Date.now() - first > SAME_WISH_MS) process.exit(130);
    if (stopping.signal.aborted) return;
    first = Date.now();
    stopping.abort(new Error(cause));
    setTimeout(() => process.exit(1), STOP_MS).unref();
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => end(signal));
  for (const stream of [process.stdout, process.stderr])
    stream.on("error", () => stopping.abort(new Error("EPIPE")));
}

function stopped(): Promise<void> {
  return new Promise((resolve) => {
    stopping.signal.addEventListener("abort", () => resolve(), { once: true });
    if (stopping.signal.aborted) resolve();
  });
}

function usage(message: string): never {
  process.stderr.write(`${message}\nnpm start -- --help shows what there is.\n`);
  process.exit(2);
}
