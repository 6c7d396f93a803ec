// The command line. `npm start` and `npm run` with api, worker, import and db:migrate all come here.
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { type Config, readConfig } from "./config.ts";
import { AppError } from "./errors.ts";
import { fail } from "./exit.ts";
import { DEFAULT_SOURCE, importFocus, importJson, importSummary } from "./imports.ts";
import { createLog } from "./log.ts";
import { migrateDatabase } from "./migrate.ts";
import { openDb, type Probes, processMetrics, startApi, startProbes, startWork, VERSION } from "./parts.ts";
import { Progress } from "./progress.ts";
import { startWatchdog } from "./runs/watchdog.ts";
import { start } from "./start.ts";
import { tenantFind } from "./tenants.ts";

const HELP = `holdfast ${VERSION}

  npm start                       the whole system, for development: PostgreSQL, worker, HTTP endpoint
  npm start -- --once             the same, and end when the last analysis has ended
  npm start --silent -- --json    print the report as one JSON document;
                                  --silent keeps npm's own banner off stdout
  npm start -- --import FILE --tenant NAME [--source NAME]
                                  first import a FOCUS cost file (CSV, plain or gzip) for a tenant,
                                  made if it is new; it replaces the months of its own source (default: ${DEFAULT_SOURCE})
  npm start -- --no-sample        make no sample tenants in an empty database

  npm run db:migrate              bring the database to the newest migration (login holdfast_admin)
  npm run api                     the HTTP endpoint alone (login holdfast_service)
  npm run worker                  the worker alone (login holdfast_worker)
  npm run import -- --file FILE --tenant NAME [--source NAME] [--json]
                                  import a FOCUS cost file for a tenant that is there (login holdfast_worker);
                                  npm run --silent keeps npm's own banner off stdout

Settings come from the environment; .env.example lists them all. A part connects with its
DATABASE_URL. Exit: 0 done, 1 failed, 2 wrong usage, 130 ended before the report.`;

/** How long an end may take before the process goes without it, in ms: the worker's stop takes 42 s at most. */
const STOP_MS = 45_000;
const SAME_WISH_MS = 1_000;
/** The same, once a second signal has hastened it. */
const HASTENED_MS = 7_000;
/** What is left when all has ended was left behind by a task: it keeps no process. */
const LEFTOVERS_MS = 500;

const stopping = new AbortController();
const hastening = new AbortController();
const commands = new Map<string, { run(options: Options): Promise<void>; takes: (keyof Options)[] }>([
  ["start", { run: runStart, takes: ["once", "json", "no-sample", "import", "tenant", "source"] }],
  ["api", { run: runApi, takes: [] }],
  ["worker", { run: runWorker, takes: [] }],
  ["import", { run: runImport, takes: ["file", "tenant", "source", "json"] }],
  ["migrate", { run: runMigrate, takes: [] }],
]);

type Options = ReturnType<typeof readOptions>["values"];

if (existsSync(".env")) process.loadEnvFile(".env");
try {
  const { positionals, values } = readOptions();
  if (values.help) process.stdout.write(`${HELP}\n`);
  else if (values.version) process.stdout.write(`${VERSION}\n`);
  else await runCommand(positionals, values);
} catch (error) {
  fail(error);
}

function readOptions() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        once: { type: "boolean" },
        json: { type: "boolean" },
        "no-sample": { type: "boolean" },
        import: { type: "string" },
        file: { type: "string" },
        tenant: { type: "string" },
        source: { type: "string" },
        help: { type: "boolean", short: "h" },
        version: { type: "boolean", short: "v" },
      },
    });
  } catch (error) {
    return usage((error as Error).message);
  }
}

async function runCommand([name = "start", ...words]: string[], options: Options): Promise<void> {
  const command = commands.get(name);
  if (command === undefined) return usage(`There is no command ${name}.`);
  if (words.length > 0) usage(`What is ${words.join(" ")}? The command ${name} takes options alone.`);
  const given = Object.keys(options) as (keyof Options)[];
  const foreign = given.find((option) => !command.takes.includes(option));
  if (foreign !== undefined) usage(`The command ${name} has no option --${foreign}.`);
  if (options.source !== undefined && !/^.{1,100}$/u.test(options.source)) {
    usage("--source NAME has 1 to 100 characters.");
  }
  endOnSignals(name === "start" || name === "worker");
  await command.run(options);
}

async function runStart(options: Options): Promise<void> {
  const { once = false, json = false, tenant } = options;
  if ((options.import === undefined) !== (tenant === undefined)) {
    usage("--import FILE and --tenant NAME go together.");
  }
  if (options.source !== undefined && options.import === undefined)
    usage("--source NAME goes with --import.");
  const config = readConfig("all");
  const progress = new Progress();
  const log = createLog({ level: config.logLevel, part: "all", destination: progress.log });
  const sample = !options["no-sample"];
  const importFile = options.import === undefined ? undefined : typedPath(options.import);
  const { source = DEFAULT_SOURCE } = options;
  const reported = await start({
    config,
    log,
    progress,
    signal: stopping.signal,
    hastening: hastening.signal,
    options: { once, json, sample, importFile, tenant, source },
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
  const work = await openDb(config, { name: "tasks", url: config.tasksDatabaseUrl }, metrics);
  const fatal = Promise.withResolvers<never>();
  const watchdog = startWatchdog();
  let probes: Probes | undefined;
  try {
    probes = await startProbes(config, { db, log, metrics });
    const worker = await startWork(config, { db, work, workerUrl, log, metrics, onFatal: fatal.reject });
    hastening.signal.addEventListener("abort", worker.hasten, { once: true });
    await Promise.race([stopped(), fatal.promise]);
    probes.drain();
    await worker.stop();
  } finally {
    await probes?.stop();
    await Promise.all([db.pool.end(), work.pool.end()]);
    await watchdog.stop();
    setTimeout(() => process.exit(), LEFTOVERS_MS).unref();
  }
}

async function runImport(options: Options): Promise<void> {
  const { file, tenant, source = DEFAULT_SOURCE, json } = options;
  if (file === undefined || tenant === undefined) {
    return usage("npm run import wants --file FILE and --tenant NAME.");
  }
  const config = readConfig("import");
  const { signal } = stopping;
  const progress = new Progress();
  const log = createLog({ level: config.logLevel, part: "import", destination: progress.log });
  const db = await openDb(config, { name: "import", url: config.databaseUrl }, processMetrics());
  try {
    const tenantId = await tenantFind(db, tenant);
    const onProgress = (rows: number) => progress.advance("Rows imported", rows);
    const imported = await importFocus(db, tenantId, {
      path: typedPath(file),
      source,
      onProgress,
      signal,
      log,
    });
    progress.clear();
    const said = json ? importJson : importSummary;
    process.stdout.write(`${said({ file, tenant, source }, imported)}\n`);
  } catch (error) {
    progress.clear();
    if (!signal.aborted) throw error;
    progress.say("Told to end before the import was done: ops.imports shows how it stands.");
    process.exitCode = 130;
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

/** Where a file is that the user named from the folder in which npm was typed. */
function typedPath(path: string): string {
  return resolve(process.env["INIT_CWD"] ?? ".", path);
}

/**
 * The first signal ends in order. The next one hastens what has a worker, whose runs are given back, and ends the rest
 * at once, as any later one does. Ctrl-C reaches this process twice, from the terminal and from npm, so what comes within
 * a second is the same wish. A reader that went away is a wish to end, too.
 */
function endOnSignals(hasWorker: boolean): void {
  let last = Number.NEGATIVE_INFINITY;
  const end = (cause: string) => {
    if (Date.now() - last < SAME_WISH_MS) return;
    last = Date.now();
    if (!stopping.signal.aborted) {
      stopping.abort(new AppError("shutdown", { message: cause }));
      setTimeout(() => process.exit(1), STOP_MS).unref();
    } else if (hasWorker && !hastening.signal.aborted) {
      hastening.abort();
      setTimeout(() => process.exit(130), HASTENED_MS).unref();
    } else {
      process.exit(130);
    }
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => end(signal));
  for (const stream of [process.stdout, process.stderr])
    stream.on("error", () => stopping.abort(new AppError("shutdown", { message: "EPIPE" })));
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
