// How many runs that do nothing the worker ends in a second, beside the same SQL without it, and beside other queues;
// how soon one starts, how fast they are made. Asserts nothing. `npm run bench:jobs -- --help`.
import { parseArgs } from "node:util";
import { withClient } from "../../src/migrate.ts";
import { type EnqueueRate, measureEnqueue } from "./jobs/enqueue.ts";
import { type Latency, measureLatency } from "./jobs/latency.ts";
import { type Weight, weigh } from "./jobs/memory.ts";
import { asMarkdown, type Line, lineOf, type Report, ratiosOf } from "./jobs/print.ts";
import { hasPgbench } from "./jobs/processes.ts";
import { makeScene, type Scene } from "./jobs/scene.ts";
import { type Round, round, SIDES, type SideName } from "./jobs/sides.ts";
import { drawn } from "./schedule/scene.ts";
import { type BenchServer, openServer } from "./server.ts";

const HELP = `npm run bench:jobs -- [--concurrency 1,10,24] [--rounds 3] [--seconds 3] [--tenants 500] [--samples 400]
                    [--sides ours,pgbenchChunked] [--jobs 1000000] [--quick] [--json]

Runs per second of a kind that does nothing, by the worker in a process of its own (claim, ticket, complete, two audit
rows); by pgbench with as many clients and the same SQL, claims in chunks, or one for each run; by bare
graphile-worker; by pg-boss. Each round runs all sides once, in an order of chance. Then how long a run waits for its
start when nothing else is to be done, and how fast runs are made. --sides measures those alone:
${Object.keys(SIDES).join(", ")}. --jobs does nothing but weigh one worker while it does so many runs. --quick is one
short round.

Without more, on an embedded server of its own in a temporary folder, in about ten minutes. BENCH_DATABASE_URL, or
else TEST_DATABASE_URL, names another server, by the URL of a superuser: it works there in scratch databases and with
a scratch role, which it drops, and sets the passwords of our logins. The lines of pgbench are there when it is
installed, and PostgreSQL's CPU when it runs on this machine: all of its processes. Medians; tables in markdown on
stdout, or JSON; progress on stderr.`;

/** Durable, as a server is that people rely on. */
const SETTINGS = {
  shared_buffers: "1GB",
  max_wal_size: "8GB",
  checkpoint_timeout: "15min",
  max_connections: "200",
};

const { values: options } = parseArgs({
  options: {
    concurrency: { type: "string" },
    rounds: { type: "string" },
    seconds: { type: "string" },
    tenants: { type: "string", default: "500" },
    samples: { type: "string" },
    sides: { type: "string" },
    jobs: { type: "string" },
    quick: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

type Plan = {
  concurrency: number[];
  rounds: number;
  seconds: number;
  tenants: number;
  samples: number;
  sides: SideName[];
  jobs: number | undefined;
  all: boolean;
};

const start = performance.now();

if (options.help) {
  console.log(HELP);
} else {
  const plan: Plan = {
    concurrency: numbers("concurrency", options.concurrency ?? (options.quick ? "10" : "1,10,24")),
    rounds: numbers("rounds", options.rounds ?? (options.quick ? "1" : "3"))[0]!,
    seconds: numbers("seconds", options.seconds ?? (options.quick ? "0.3" : "3"))[0]!,
    tenants: numbers("tenants", options.tenants)[0]!,
    samples: numbers("samples", options.samples ?? (options.quick ? "30" : "400"))[0]!,
    sides: sidesOf(options.sides),
    jobs: options.jobs === undefined ? undefined : numbers("jobs", options.jobs)[0]!,
    all: options.sides === undefined,
  };
  const report = await bench(plan);
  console.log(options.json ? JSON.stringify(report, null, 2) : asMarkdown(report));
}

async function bench(plan: Plan): Promise<Report> {
  say("starting");
  const where = process.env["BENCH_DATABASE_URL"] || process.env["TEST_DATABASE_URL"] || "embedded";
  const server = await openServer(where, SETTINGS);
  let scene: Scene | undefined;
  let stopped: Promise<void> | undefined;
  const stop = () => {
    stopped ??= (scene?.drop() ?? Promise.resolve()).finally(server.stop);
    return stopped;
  };
  const interrupted = () => void stop().finally(() => process.exit(130));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, interrupted);
  try {
    const settings = await settingsOf(server);
    say(`PostgreSQL ${server.version} (${settings}): making ${plan.tenants} tenants`);
    scene = await makeScene(server, plan.tenants);
    const { rounds, seconds, tenants } = plan;
    return {
      server_version: server.version,
      settings,
      tenants,
      rounds,
      seconds,
      ...(await measureAll(scene, plan)),
    };
  } finally {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, interrupted);
    await stop();
    say("done");
  }
}

type Figures = Pick<Report, "lines" | "ratios" | "latency" | "enqueue" | "memory">;

async function measureAll(scene: Scene, plan: Plan): Promise<Figures> {
  const most = Math.max(...plan.concurrency);
  if (plan.jobs !== undefined) {
    const memory: Weight[] = await weigh(scene, most, plan.jobs, say);
    return { lines: [], ratios: [], latency: null, enqueue: [], memory };
  }
  const lines = await measureSides(scene, plan);
  let latency: Latency | null = null;
  let enqueue: EnqueueRate[] = [];
  if (plan.all) {
    say("latency");
    latency = await measureLatency(scene, 10, plan.samples);
    say("enqueue");
    enqueue = await measureEnqueue(scene, options.quick ? 0.05 : 1, plan.rounds);
  }
  return { lines, ratios: ratiosOf(lines), latency, enqueue, memory: [] };
}

async function measureSides(scene: Scene, plan: Plan): Promise<Line[]> {
  const { seconds } = plan;
  const warmUpMs = options.quick ? 200 : 1_000;
  const pgbench = await hasPgbench();
  if (!pgbench) say("pgbench is not installed: its lines are left out");
  const sides = plan.sides.filter((side) => pgbench || !side.startsWith("pgbench"));
  const lines: Line[] = [];
  if (sides.includes("ours")) {
    const setting = { scene, concurrency: plan.concurrency.at(-1)!, seconds, warmUpMs, empty: true };
    const measured = await round("ours", setting);
    say(told("ours", setting.concurrency, measured));
    lines.push(lineOf("ours", setting.concurrency, true, [measured]));
  }
  for (const concurrency of plan.concurrency) {
    const measured = new Map<SideName, Round[]>(sides.map((side) => [side, []]));
    for (let each = 0; each < plan.rounds; each += 1) {
      for (const side of drawn(sides)) {
        const one = await round(side, { scene, concurrency, seconds, warmUpMs });
        say(told(side, concurrency, one));
        measured.get(side)!.push(one);
      }
    }
    lines.push(...sides.map((side) => lineOf(side, concurrency, false, measured.get(side)!)));
  }
  return lines;
}

function told(side: SideName, concurrency: number, { perSecond, serverCpu, clientCpu }: Round): string {
  const cpu = serverCpu === undefined ? "" : `, ${Math.round(serverCpu)} µs of PostgreSQL`;
  return `${side} at ${concurrency}: ${Math.round(perSecond)} runs/s${cpu}, ${Math.round(clientCpu)} µs of its own`;
}

async function settingsOf(server: BenchServer): Promise<string> {
  return withClient(server.administrator, async (client) => {
    const names = ["fsync", "synchronous_commit", "shared_buffers"];
    const { rows } = await client.query<{ name: string; value: string }>(
      "select name, current_setting(name) as value from unnest($1::text[]) as name",
      [names],
    );
    return rows.map(({ name, value }) => `${name} ${value}`).join(", ");
  });
}

function sidesOf(text: string | undefined): SideName[] {
  const names = Object.keys(SIDES) as SideName[];
  if (text === undefined) return names;
  const wanted = text.split(",");
  const unknown = wanted.filter((name) => !names.some((known) => known === name));
  if (unknown.length > 0) throw new Error(`--sides: there is no ${unknown.join(", ")}`);
  return names.filter((name) => wanted.includes(name));
}

function say(what: string): void {
  console.error(`${((performance.now() - start) / 1000).toFixed(0).padStart(4)} s  ${what}`);
}

function numbers(name: string, text: string): number[] {
  const values = text.split(",").map(Number);
  if (values.some((value) => !(value > 0))) throw new Error(`--${name} must be numbers above 0`);
  return values;
}
