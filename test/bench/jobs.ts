// How many runs that do nothing the worker ends in a second, beside the same SQL without it, and beside other queues;
// how soon one starts, how fast they are made. Asserts nothing. `npm run bench:jobs -- --help`.
import { observed } from "./conditions.ts";
import { type EnqueueRate, measureEnqueue } from "./jobs/enqueue.ts";
import { type Latency, measureLatency } from "./jobs/latency.ts";
import { type Memory, weigh } from "./jobs/memory.ts";
import { asMarkdown, type Line, lineOf, type Report, ratiosOf } from "./jobs/print.ts";
import { type Chunks, hasPgbench } from "./jobs/processes.ts";
import { makeScene, type Scene } from "./jobs/scene.ts";
import { type Round, round, SIDES, type SideName } from "./jobs/sides.ts";
import { helpOf, numbersOf, optionsOf, refuse } from "./options.ts";
import { drawn } from "./schedule/scene.ts";
import { openServer } from "./server.ts";

const HELP = `npm run bench:jobs -- [--concurrency 1,10,24] [--rounds 3] [--seconds 3] [--tenants 500] [--samples 400]
                    [--sides ours,pgbenchChunked] [--minutes 8] [--jobs 1000000] [--quick] [--json]

Runs per second of a kind that does nothing (claim, complete, two audit rows), by:
${Object.entries(SIDES)
  .map(([name, { does }]) => `  ${name.padEnd(15)} ${does}`)
  .join("\n")}
Each round runs the sides that are compared once, at every concurrency, in an order of chance; the first round runs the
others, too. Then how long a run waits for its start when nothing else is to be done, and how fast runs are made.

  --sides    measures those alone
  --jobs     does nothing but weigh one worker while it does so many runs: its memory is to stay flat
  --minutes  begins no further round that would make the whole longer than that, but for the first
  --quick    one short round at a concurrency of 10, in less than half a minute: it shows that the bench works

Without more, on an embedded server of its own in a temporary folder, in six to eight minutes; a million runs with --jobs
take about as long. BENCH_DATABASE_URL, or else TEST_DATABASE_URL, names another server, by the URL of a superuser: it
works there in scratch databases and with a scratch role, which it drops, and sets the passwords of our logins. The
lines of pgbench are there when it is installed, and PostgreSQL's CPU when it runs on this machine: all of its
processes. Medians; tables in markdown on stdout, or JSON; progress on stderr.`;

/** Durable, as a server is that people rely on. */
const SETTINGS = {
  shared_buffers: "1GB",
  max_wal_size: "8GB",
  checkpoint_timeout: "15min",
  max_connections: "200",
};

/** What follows the rounds takes about so long: latency and enqueue rates. */
const REST_MINUTES = 1.5;

/** The sides of pgbench that are told how large their chunks are. */
const IN_CHUNKS: readonly SideName[] = ["pgbenchChunked", "pgbenchTwo"];

const SCRIPT = "bench:jobs";
const options = optionsOf(SCRIPT, {
  concurrency: { type: "string" },
  rounds: { type: "string" },
  seconds: { type: "string" },
  tenants: { type: "string", default: "500" },
  samples: { type: "string" },
  sides: { type: "string" },
  minutes: { type: "string", default: "8" },
  jobs: { type: "string" },
  quick: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
});

type Plan = {
  concurrency: number[];
  rounds: number;
  seconds: number;
  tenants: number;
  samples: number;
  sides: SideName[];
  minutes: number;
  jobs: number | undefined;
  all: boolean;
};

const start = performance.now();

if (options.help) {
  console.log(HELP);
} else {
  const { quick } = options;
  const seconds = options.seconds ?? (quick ? "0.4" : "3");
  const plan: Plan = {
    concurrency: numbersOf(SCRIPT, "concurrency", options.concurrency ?? (quick ? "10" : "1,10,24")),
    rounds: numbersOf(SCRIPT, "rounds", options.rounds ?? (quick ? "1" : "3"))[0]!,
    seconds: numbersOf(SCRIPT, "seconds", seconds, { least: 0.1, fraction: true })[0]!,
    tenants: numbersOf(SCRIPT, "tenants", options.tenants)[0]!,
    samples: numbersOf(SCRIPT, "samples", options.samples ?? (quick ? "30" : "400"))[0]!,
    sides: sidesOf(options.sides),
    minutes: numbersOf(SCRIPT, "minutes", options.minutes, { least: 0.1, fraction: true })[0]!,
    jobs:
      options.jobs === undefined ? undefined : numbersOf(SCRIPT, "jobs", options.jobs, { least: 1_000 })[0]!,
    all: options.sides === undefined,
  };
  const report = await bench(plan);
  console.log(options.json ? JSON.stringify(report, null, 2) : asMarkdown(report));
}

async function bench(plan: Plan): Promise<Report> {
  say("starting");
  const conditions = observed();
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
    say(`PostgreSQL ${server.version}: making ${plan.tenants} tenants`);
    scene = await makeScene(server, plan.tenants);
    const { tenants, seconds } = plan;
    const figures = await measureAll(scene, plan);
    return { conditions: await conditions(server), tenants, seconds, ...figures };
  } finally {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, interrupted);
    await stop();
    say("done");
  }
}

type Figures = Pick<Report, "lines" | "ratios" | "latency" | "enqueue" | "memory">;

async function measureAll(scene: Scene, plan: Plan): Promise<Figures> {
  if (plan.jobs !== undefined) {
    const memory: Memory = await weigh(scene, Math.max(...plan.concurrency), plan.jobs, say);
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
  return { lines, ratios: ratiosOf(lines), latency, enqueue, memory: null };
}

async function measureSides(scene: Scene, plan: Plan): Promise<Line[]> {
  const { seconds } = plan;
  const warmUpMs = options.quick ? 200 : 1_000;
  const hasIt = await hasPgbench();
  if (!hasIt) say("pgbench is not installed: its lines are left out");
  const sides = plan.sides.filter((side) => hasIt || !side.startsWith("pgbench"));
  const least = { claim: 1, end: 1 };
  const lines: Line[] = [];
  if (sides.includes("ours")) {
    const concurrency = plan.concurrency.at(-1)!;
    const measured = await round("ours", {
      scene,
      concurrency,
      seconds,
      warmUpMs,
      chunks: least,
      empty: true,
    });
    say(told("ours on empty tables", concurrency, measured));
    lines.push(lineOf("ours", concurrency, true, [measured], undefined));
  }
  const cells = plan.concurrency.map((concurrency) => ({
    concurrency,
    chunks: least,
    measured: new Map<SideName, Round[]>(sides.map((side) => [side, []])),
  }));
  let longest = 0;
  for (let each = 0; each < plan.rounds; each += 1) {
    const began = minutes();
    if (each > 0 && began + longest > plan.minutes - REST_MINUTES) {
      say(`no time for round ${each + 1} of ${plan.rounds}`);
      break;
    }
    for (const cell of cells) {
      const { concurrency, measured } = cell;
      // pgbench makes the chunks that the worker makes here and now.
      if (each === 0 && sides.some((side) => IN_CHUNKS.includes(side))) {
        const look = Math.min(1, seconds);
        const { together } = await round("ours", {
          scene,
          concurrency,
          seconds: look,
          warmUpMs,
          chunks: least,
        });
        cell.chunks = wholeChunks(together);
      }
      for (const side of drawn(sides.filter((name) => each === 0 || SIDES[name].compared))) {
        const one = await round(side, { scene, concurrency, seconds, warmUpMs, chunks: cell.chunks });
        say(told(side, concurrency, one));
        measured.get(side)!.push(one);
      }
    }
    // The first does more than those after it.
    const compared = sides.filter((name) => SIDES[name].compared).length;
    longest = Math.max(longest, (minutes() - began) * (each === 0 ? compared / sides.length : 1));
  }
  const lineIn = ({ concurrency, chunks, measured }: (typeof cells)[number], side: SideName) =>
    lineOf(side, concurrency, false, measured.get(side)!, IN_CHUNKS.includes(side) ? chunks : undefined);
  return [...lines, ...cells.flatMap((cell) => sides.map((side) => lineIn(cell, side)))];
}

function wholeChunks(together: Chunks | undefined): Chunks {
  const whole = (runs: number | undefined) => Math.max(1, Math.round(runs ?? 1));
  return { claim: whole(together?.claim), end: whole(together?.end) };
}

function told(
  side: string,
  concurrency: number,
  { perSecond, serverCpu, clientCpu, together }: Round,
): string {
  const cpu = serverCpu === undefined ? "" : `, ${Math.round(serverCpu)} µs of PostgreSQL`;
  const chunks = together === undefined ? "" : `, ${together.claim.toFixed(1)} to a claim`;
  return `${side} at ${concurrency}: ${Math.round(perSecond)} runs/s${cpu}, ${Math.round(clientCpu)} µs of its own${chunks}`;
}

function sidesOf(text: string | undefined): SideName[] {
  const names = Object.keys(SIDES) as SideName[];
  if (text === undefined) return names;
  const wanted = text.split(",");
  const unknown = wanted.filter((name) => !names.some((known) => known === name));
  if (unknown.length > 0) {
    refuse(`--sides: there is no ${unknown.join(", ")}`, `There are ${names.join(", ")}. ${helpOf(SCRIPT)}`);
  }
  return names.filter((name) => wanted.includes(name));
}

function minutes(): number {
  return (performance.now() - start) / 60_000;
}

function say(what: string): void {
  console.error(`${((performance.now() - start) / 1000).toFixed(0).padStart(4)} s  ${what}`);
}
