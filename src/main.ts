// The command line. `npm start`, `npm run api`, `npm run worker` and `npm run db:migrate` all come here.
import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { type Config, readConfig } from "./config.ts";
import { AppError } from "./errors.ts";
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

Settings come from the environment; .env.example lists them all. Exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted.`;

/** How long an end may take before the process goes without it, in ms: the worker's drain is 20 s of it. */
const STOP_MS = 45_000;

const stopping = new AbortController();
const commands: Record<string, (options: Options) => Promise<void>> = {
  start: runStart,
  api: runApi,
  worker: runWorker,
  migrate: runMigrate,
};

type Options = ReturnType<typeof readOptions>["values"];

if (existsSync(".env")) process.loadEnvFile(".env");
try {
  const { positionals, values } = readOptions();
  const command = commands[positionals[0] ?? "start"];
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
  const { once, json, import: importFile, tenant } = options;
  const sample = !options["no-sample"];
  await start({
    config,
    log,
    progress,
    signal: stopping.signal,
    options: { once, json, sample, importFile, tenant },
  });
}

async function runApi(): Promise<void> {
  const config = readConfig("api");
  const log = createLog({ level: config.logLevel, part: "api" });
  const metrics = processMetrics();
  const db = await openDb(config, { name: "service", url: config.databaseUrl }, metrics);
  const api = await startApi(config, { db, log, metrics });
  await stopped();
  await api.stop();
  await db.pool.end();
}

async function runWorker(): Promise<void> {
  const config = readConfig("worker");
  const log = createLog({ level: config.logLevel, part: "worker" });
  const metrics = processMetrics();
  const db = await openDb(config, { name: "worker", url: config.databaseUrl }, metrics);
  const fatal = Promise.withResolvers<never>();
  const worker = await startWork(config, {
    db,
    workerUrl: config.databaseUrl,
    log,
    metrics,
    onFatal: fatal.reject,
  });
  await Promise.race([stopped(), fatal.promise]);
  await worker.stop();
  await db.pool.end();
}

async function runMigrate(): Promise<void> {
  const config: Config<"migrate"> = readConfig("migrate");
  const log = createLog({ level: config.logLevel, part: "migrate" });
  await migrateDatabase(config.databaseUrl, config.ticketKey, log);
  log.info("migrated");
}

/** The first signal ends in order, the second at once. */
function endOnSignals(): void {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => {
      if (stopping.signal.aborted) process.exit(130);
      stopping.abort(new Error(signal));
      setTimeout(() => process.exit(1), STOP_MS).unref();
    });
  }
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

/** What a person can act on is said in words; anything else is a bug, and its stack is shown. */
function fail(error: unknown): void {
  process.exitCode = 1;
  if (error instanceof AppError) {
    const said = error.message === error.code ? error.code : `${error.code}: ${error.message}`;
    process.stderr.write(`${said}\n${error.hint === undefined ? "" : `${error.hint}\n`}`);
  } else {
    process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  }
}
