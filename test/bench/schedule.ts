// How long the scheduler takes for many due tenants, beside the bare insert of the same rows. Asserts nothing.
// `npm run bench:schedule -- --help`.
import { parseArgs } from "node:util";
import { withClient } from "../../src/migrate.ts";
import { asMarkdown, type Report, type Result, summary } from "./schedule/print.ts";
import { dealOut, drawn, makeTenants, reset } from "./schedule/scene.ts";
import { type Round, runFloor, runTicks } from "./schedule/sides.ts";
import { type BenchServer, openServer } from "./server.ts";

const HELP = `npm run bench:schedule -- [--tenants 1000,100000,1000000] [--schedulers 1,8] [--rounds 3]
                          [--max-runs 50000] [--quick] [--json]

The seconds in which app.schedule_tick(50000), called until nothing is due, makes the runs of so many tenants, with
that many callers at once; beside it the floor: the same rows, inserted as they are. Both write the same tables, in
transactions of the same size and with as many connections. Before the rounds, one pass on tables that were never
analysed. Without more, on an embedded server of its own in a temporary folder, in about fifteen minutes; --quick is
one round with 1,000 tenants. BENCH_DATABASE_URL, or else TEST_DATABASE_URL, names another server, by the URL of a
superuser: it works there in scratch databases, which it drops, and sets the passwords of our logins. Medians; tables
in markdown on stdout, or JSON; progress on stderr.`;

/** Durable, as a server is that people rely on; what a checkpoint writes falls between the rounds. */
const SETTINGS = {
  shared_buffers: "2GB",
  max_wal_size: "16GB",
  checkpoint_timeout: "1h",
  autovacuum: "off",
};

const { values: options } = parseArgs({
  options: {
    tenants: { type: "string" },
    schedulers: { type: "string", default: "1,8" },
    rounds: { type: "string" },
    "max-runs": { type: "string", default: "50000" },
    quick: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

const start = performance.now();

if (options.help) {
  console.log(HELP);
} else {
  const report = await bench({
    tenants: numbers("tenants", options.tenants ?? (options.quick ? "1000" : "1000,100000,1000000")),
    schedulers: numbers("schedulers", options.schedulers),
    rounds: numbers("rounds", options.rounds ?? (options.quick ? "1" : "3"))[0]!,
    maxRuns: numbers("max-runs", options["max-runs"])[0]!,
  });
  console.log(options.json ? JSON.stringify(report, null, 2) : asMarkdown(report));
}

type Plan = { tenants: number[]; schedulers: number[]; rounds: number; maxRuns: number };

async function bench(plan: Plan): Promise<Report> {
  say("starting");
  const where = process.env["BENCH_DATABASE_URL"] || process.env["TEST_DATABASE_URL"] || "embedded";
  const server = await openServer(where, SETTINGS);
  const interrupted = () => void server.stop().finally(() => process.exit(130));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, interrupted);
  try {
    const results: Result[] = [];
    for (const tenants of plan.tenants) results.push(...(await benchTenants(server, tenants, plan)));
    return { server_version: server.version, rounds: plan.rounds, max_runs: plan.maxRuns, results };
  } finally {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, interrupted);
    await server.stop();
    say("done");
  }
}

/** In a database of its own: nothing of it was ever analysed when the first ticks come. */
async function benchTenants(server: BenchServer, tenants: number, plan: Plan): Promise<Result[]> {
  const scratch = await server.scratch();
  try {
    const context = { server, scratch, maxRuns: plan.maxRuns, tenants };
    say(`PostgreSQL ${server.version}: making ${tenants} tenants`);
    await makeTenants(scratch.superuser, tenants);
    await reset(scratch.superuser);
    const first = await runTicks({ ...context, schedulers: 1 });
    say(told("never analysed", first));
    await withClient(scratch.superuser, (client) => client.query("analyze"));
    await dealOut(scratch.superuser, plan.maxRuns);

    const rounds = plan.schedulers.map((schedulers) => ({
      schedulers,
      ticks: [] as Round[],
      floors: [] as Round[],
    }));
    for (let round = 0; round < plan.rounds; round += 1) {
      for (const { schedulers, ticks, floors } of rounds) {
        for (const side of drawn(["ticks", "floor"] as const)) {
          await reset(scratch.superuser);
          const run = side === "ticks" ? runTicks : runFloor;
          const done = await run({ ...context, schedulers });
          (side === "ticks" ? ticks : floors).push(done);
          say(told(`${side} with ${schedulers}`, done));
        }
      }
    }
    return [
      summary({ tenants, schedulers: 1, analysed: false, ticks: [first], floors: rounds[0]!.floors }),
      ...rounds.map((each) => summary({ tenants, analysed: true, ...each })),
    ];
  } finally {
    await scratch.drop();
  }
}

function told(what: string, { runs, seconds }: Round): string {
  return `${what}: ${runs} runs in ${seconds.toFixed(2)} s`;
}

function say(what: string): void {
  console.error(`${((performance.now() - start) / 1000).toFixed(0).padStart(4)} s  ${what}`);
}

function numbers(name: string, text: string): number[] {
  const values = text.split(",").map(Number);
  if (values.some((value) => !Number.isSafeInteger(value) || value < 1))
    throw new Error(`--${name} must be whole numbers above 0`);
  return values;
}
