// Chaos on the jobs: `npm run chaos:jobs`. Workers die at every step, tokens and the queue are lost, the server restarts,
// tasks misbehave, people interfere, all of it from a seed; in the end an audit of every run. Progress is on stderr, the
// audit on stdout.
import { mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Progress } from "../../src/progress.ts";
import { patiently, perform, type Stage } from "./actions.ts";
import { auditOf, type Check, cancelledAndRun, type Orphan, type Rescue, rescueOf } from "./audit.ts";
import { Crew, type End } from "./crew.ts";
import { type Action, planOf } from "./plan.ts";
import { report } from "./report.ts";
import { chaosScene, NO_TURNS, type Scene } from "./scene.ts";
import { startSchedulers } from "./schedulers.ts";
import { chaosServer } from "./server.ts";
import { Tally } from "./tally.ts";
import { type Seen, startWatch } from "./watch.ts";

const WORKERS = 3;
const CONCURRENCY = 8;
const TENANTS = 120;
/** How long the drain may take: waits that double, leases that end, and a flood. */
const DRAIN_MS = 240_000;
/** Without one run less for so long, nothing will come any more. */
const STILL_MS = 75_000;
/** A run is back within this of the death of its worker; load and the restart of a server are added. */
const BACK_MS = 30_000;
const LOAD_MS = 10_000;
/** What a worker may take to stop: its drain, the grace, and closing. */
const WORKER_DRAIN_MS = 5_000;
const STOP_MS = WORKER_DRAIN_MS + 12_000 + LOAD_MS;

const HELP = `npm run chaos:jobs -- [--minutes 10] [--seed 1] [--json] [--keep]

  Breaks all that jobs stand on, for so many minutes, and then looks at every run. The same seed does the same.
  On an embedded server of its own, or in a database of its own on the server of CHAOS_DATABASE_URL (a superuser's
  URL on 127.0.0.1), which is then not restarted.

  --minutes N   how long it breaks things; the drain and the audit come after it
  --seed N      what it does, and when
  --json        the audit as one JSON document
  --keep        leave the logs of the workers where they are

Exit: 0 nothing was found, 1 something was, 2 wrong usage.`;

const options = read();
if (options !== undefined) process.exitCode = await chaos(options);

type Options = { minutes: number; seed: number; json: boolean; keep: boolean };

function read(): Options | undefined {
  try {
    const { values } = parseArgs({
      options: {
        minutes: { type: "string", default: "10" },
        seed: { type: "string", default: "1" },
        json: { type: "boolean", default: false },
        keep: { type: "boolean", default: false },
        help: { type: "boolean", short: "h" },
      },
    });
    const [minutes, seed] = [Number(values.minutes), Number(values.seed)];
    if (values.help) process.stdout.write(`${HELP}\n`);
    else if (minutes > 0 && minutes <= 24 * 60 && Number.isInteger(seed) && seed > 0)
      return { minutes, seed, json: values.json, keep: values.keep };
    else throw new Error("--minutes is a number above 0, --seed a whole one.");
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${HELP}\n`);
    process.exitCode = 2;
  }
  return undefined;
}

async function chaos(of: Options): Promise<number> {
  const progress = new Progress();
  const folder = mkdtempSync(join(tmpdir(), "holdfast-chaos-logs-"));
  const server = await chaosServer();
  try {
    const scene = await chaosScene(server, TENANTS);
    progress.say(`chaos with seed ${of.seed} for ${of.minutes} min; logs of the workers are in ${folder}`);
    const found = await onScene(scene, of, folder, progress).finally(() => scene.end());
    return found ? 1 : 0;
  } finally {
    await server.stop();
    if (!of.keep) await rm(folder, { recursive: true });
  }
}

async function onScene(scene: Scene, of: Options, folder: string, progress: Progress): Promise<boolean> {
  const tally = new Tally();
  const orphans: Orphan[] = [];
  const crew = new Crew({
    workerUrl: scene.url("holdfast_worker"),
    serviceUrl: scene.url("holdfast_service"),
    folder,
    concurrency: CONCURRENCY,
    drainMs: WORKER_DRAIN_MS,
    onEnd: (end) => noteOrphans(scene, end, orphans),
  });
  const stage: Stage = { scene, crew, tally, cancels: [], restarts: [] };
  const whole = planOf({ ...of, tenants: TENANTS });
  const plan = whole.filter(({ does }) => does !== "restart_database" || scene.server.restart !== undefined);
  const watch = startWatch(scene);
  const schedulers = startSchedulers(scene, tally);
  crew.keep(WORKERS);
  try {
    await follow(stage, plan, progress);
    await schedulers.stop();
    const drainMs = await drain(stage, progress);
    await crew.stop();
    await watch.stop();
    const checks = await auditOf(scene.superuser);
    const rescue = await rescueOf(scene.superuser, orphans, flooded(stage, plan));
    checks.push(await cancelledAndRun(scene.superuser, stage.cancels));
    checks.push(...besides(stage, watch.seen, rescue, errorsIn(folder)));
    const { ticks, runs, longestMs } = schedulers;
    await report(stage, {
      ...of,
      checks,
      rescue,
      seen: watch.seen,
      drainMs,
      ticking: { ticks, runs, longestMs },
    });
    return checks.some(({ found }) => found > 0);
  } finally {
    progress.clear();
    await schedulers.stop();
    await crew.stop();
  }
}

/** Does what is planned, each thing at its time; what takes long goes on beside the next. */
async function follow(stage: Stage, plan: readonly Action[], progress: Progress): Promise<void> {
  const began = performance.now();
  const seconds = () => Math.round((performance.now() - began) / 1_000);
  const underWay = new Set<Promise<void>>();
  for (const [number, action] of plan.entries()) {
    const wait = action.atMs - (performance.now() - began);
    if (wait > 0) await sleep(wait);
    progress.advance(`${seconds()} s, ${stage.crew.ends.length} workers ended`, number + 1, plan.length);
    const doing = perform(stage, action).finally(() => underWay.delete(doing));
    underWay.add(doing);
    // An action per connection: those that wait for a server that is away do not pile up.
    if (underWay.size >= 40) await Promise.race(underWay);
  }
  await Promise.all(underWay);
}

/** Whose runs wait for thousands of their own. */
function flooded({ scene }: Stage, plan: readonly Action[]): string[] {
  return plan.flatMap((action) => (action.does === "flood" ? [scene.tenants[action.tenant]!.tenantId] : []));
}

/** No more turns, no pauses; then waits until every run has ended. Gives the milliseconds that took. */
async function drain({ scene, tally }: Stage, progress: Progress): Promise<number> {
  const began = performance.now();
  await patiently(tally, "pause", async () => {
    await scene.superuser.query(`
      ${NO_TURNS}
      update app.tenants set jobs_paused_at = null where jobs_paused_at is not null;
      update app.job_kinds set paused_at = null`);
  });
  let most = 1;
  let least = { runs: Number.POSITIVE_INFINITY, at: began };
  for (;;) {
    const live = await liveRuns(scene).catch(() => undefined); // the server may still come up
    const spent = performance.now() - began;
    if (live !== undefined && live < least.runs) least = { runs: live, at: performance.now() };
    if (live === 0 || spent > DRAIN_MS || performance.now() - least.at > STILL_MS) return Math.round(spent);
    most = Math.max(most, live ?? 0);
    progress.advance(`draining, ${live ?? "?"} runs are left`, most - (live ?? most), most + 1);
    await sleep(1_000);
  }
}

async function liveRuns({ superuser }: Scene): Promise<number> {
  const { rows } = await superuser.query<{ live: number }>(
    "select count(*)::int as live from app.job_runs as r where r.state in ('PENDING', 'RUNNING', 'FAILED')",
  );
  return rows[0]!.live;
}

/** What a worker that did not end in order was at. */
async function noteOrphans({ superuser }: Scene, end: End, orphans: Orphan[]): Promise<void> {
  if (end.signal !== "SIGKILL") return;
  try {
    const { rows } = await superuser.query<Omit<Orphan, "killedAt">>(
      `select r.tenant_id as "tenantId", r.id as "runId", r.attempt from app.job_runs as r
       where r.state = 'RUNNING' and split_part(r.worker, ':', 2) = $1`,
      [String(end.pid)],
    );
    orphans.push(...rows.map((row) => ({ ...row, killedAt: end.at })));
  } catch {
    // The server is away; others show how long it takes.
  }
}

/** What the audit of the rows does not see. */
function besides(stage: Stage, seen: Seen, rescue: Rescue, logged: Record<string, number>): Check[] {
  const { tally, crew, scene, restarts } = stage;
  const log = scene.server.log();
  const lines = (pattern: RegExp) => log.split("\n").filter((line) => pattern.test(line));
  const late = (ms: number) => ms > BACK_MS + LOAD_MS + longest(restarts);
  const crashed = lines(/terminated by signal (6|7|8|11)/);
  const deadlocks = log.match(/.*deadlock detected(\n.*){8}/g) ?? [];
  // One that could go on no longer already ends with an error, also when it is asked to end; and a task or the watchdog
  // may kill it just then: we kill none that has no step.
  const stops = crew.ends.filter(
    ({ stopMs, code, signal, step, file }) =>
      stopMs !== undefined &&
      step === undefined &&
      (stopMs > STOP_MS ||
        (code !== 0 && signal !== "SIGKILL" && !readFileSync(file, "utf8").includes('"worker_fatal"'))),
  );
  const unasked = crew.ends.filter(
    ({ code, signal, step, stopMs }) =>
      step === undefined && stopMs === undefined && (code === 0 || (signal !== null && signal !== "SIGKILL")),
  );
  return [
    { check: "deadlocks", found: Math.max(seen.deadlocks, deadlocks.length), proof: deadlocks.slice(0, 3) },
    { check: "crashes of the server", found: crashed.length, proof: crashed.slice(0, 3) },
    { check: "errors that nothing explains", found: count(tally.surprises), proof: [tally.surprises] },
    { check: "errors of workers that nothing explains", found: count(logged), proof: [logged] },
    {
      check: "runs of killed workers that came back late",
      found: rescue.backMs.filter(late).length + rescue.lost,
      proof: rescue.slowest,
    },
    { check: "caps exceeded at a moment", found: Math.max(0, seen.beyondCap), proof: [] },
    {
      check: "runs that had no token for a minute",
      found: seen.tokenlessSeconds > 60 + longest(restarts) / 1_000 ? 1 : 0,
      proof: [seen.tokenlessSeconds],
    },
    { check: "workers that did not stop in order", found: stops.length, proof: stops.slice(0, 3) },
    {
      check: "workers that ended unasked, with 0 or by another signal than that of a task",
      found: unasked.length,
      proof: unasked.slice(0, 3),
    },
  ];
}

function longest(restarts: Date[]): number {
  const spans = restarts.flatMap((at, place) =>
    place % 2 === 1 ? [at.getTime() - restarts[place - 1]!.getTime()] : [],
  );
  return Math.max(0, ...spans);
}

function count(names: Record<string, number>): number {
  return Object.values(names).reduce((sum, each) => sum + each, 0);
}

/** Errors in the logs of workers by SQLSTATE, that neither chaos nor a restart accounts for. */
function errorsIn(folder: string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const file of readdirSync(folder)) {
    for (const line of readFileSync(join(folder, file), "utf8").split("\n")) {
      const found =
        /"code":"(40P01|40001|XX\d{3}|P0004|2BP01|23\d{3}|22\d{3})"|Assertion|TypeError|ReferenceError/.exec(
          line,
        );
      if (found === null) continue;
      const name = `${found[1] ?? found[0]} ${/"message":"([^"]{0,80})/.exec(line)?.[1] ?? line.slice(0, 80)}`;
      counts[name] = (counts[name] ?? 0) + 1;
    }
  }
  return counts;
}
