// How long the scheduler takes for many due tenants, beside the bare insert of the same rows. Asserts nothing.
// `npm run bench:schedule -- --help`.
import { withClient } from "../../src/migrate.ts";
import { observed } from "./conditions.ts";
import { numbersOf, optionsOf } from "./options.ts";
import { asMarkdown, type Report, type Result, SIDES, summary } from "./schedule/print.ts";
import { dealOut, drawn, makeTenants, reset } from "./schedule/scene.ts";
import { type Round, runFloor, runTicks } from "./schedule/sides.ts";
import { type BenchServer, openServer } from "./server.ts";

const HELP = `npm run bench:schedule -- [--tenants 1000,100000,1000000] [--schedulers 1,8] [--rounds 3]
                          [--max-runs 50000] [--minutes 10] [--quick] [--json]

The seconds in which app.schedule_tick(50000), called until nothing is due, makes the runs of so many tenants, with
that many callers at once; beside it the floor: the same rows, inserted as they are. Both write the same tables, in
transactions of the same size and with as many connections. Before the rounds, one pass on tables that were never
analysed.

  --minutes  begins no further round that may not end by then, but for the first of each number of tenants
  --quick    one round with 1,000 tenants, in some seconds: it shows that the bench works

Without more, on an embedded server of its own in a temporary folder, in ten minutes at most: a million tenants may
have a round or two for want of time. BENCH_DATABASE_URL, or else TEST_DATABASE_URL, names another server, by the URL of
a superuser: it works there in scratch databases, which it drops, and sets the passwords of our logins. Medians; tables
in markdown on stdout, or JSON; progress on stderr.`;

/** Durable, as a server is that people rely on; what a checkpoint writes falls between the rounds. */
const SETTINGS = {
  shared_buffers: "2GB",
  max_wal_size: "16GB",
  checkpoint_timeout: "1h",
  autovacuum: "off",
};

const SCRIPT = "bench:schedule";
const options = optionsOf(SCRIPT, {
  tenants: { type: "string" },
  schedulers: { type: "string", default: "1,8" },
  rounds: { type: "string" },
  "max-runs": { type: "string", default: "50000" },
  minutes: { type: "string", default: "10" },
  quick: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
});

const start = performance.now();

if (options.help) {
  console.log(HELP);
} else {
  const tenants = options.tenants ?? (options.quick ? "1000" : "1000,100000,1000000");
  const report = await bench({
    tenants: numbersOf(SCRIPT, "tenants", tenants).sort((one, other) => one - other),
    schedulers: numbersOf(SCRIPT, "schedulers", options.schedulers),
    rounds: numbersOf(SCRIPT, "rounds", options.rounds ?? (options.quick ? "1" : "3"))[0]!,
    maxRuns: numbersOf(SCRIPT, "max-runs", options["max-runs"])[0]!,
    minutes: numbersOf(SCRIPT, "minutes", options.minutes, { least: 0.1, fraction: true })[0]!,
  });
  console.log(options.json ? JSON.stringify(report, null, 2) : asMarkdown(report));
}

type Plan = { tenants: number[]; schedulers: number[]; rounds: number; maxRuns: number; minutes: number };

async function bench(plan: Plan): Promise<Report> {
  say("starting");
  const conditions = observed();
  const where = process.env["BENCH_DATABASE_URL"] || process.env["TEST_DATABASE_URL"] || "embedded";
  const server = await openServer(where, SETTINGS);
  const interrupted = () => void server.stop().finally(() => process.exit(130));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, interrupted);
  try {
    const results: Result[] = [];
    for (const tenants of plan.tenants) results.push(...(await benchTenants(server, tenants, plan)));
    return { conditions: await conditions(server), max_runs: plan.maxRuns, sides: SIDES, results };
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
    let longest = 0;
    for (let round = 0; round < plan.rounds; round += 1) {
      const began = minutes();
      if (round > 0 && began + longest * 1.2 > plan.minutes) {
        say(`no time for round ${round + 1} of ${plan.rounds} with ${tenants} tenants`);
        break;
      }
      for (const { schedulers, ticks, floors } of rounds) {
        for (const side of drawn(["ticks", "floor"] as const)) {
          await reset(scratch.superuser);
          const run = side === "ticks" ? runTicks : runFloor;
          const done = await run({ ...context, schedulers });
          (side === "ticks" ? ticks : floors).push(done);
          say(told(`${side} with ${schedulers}`, done));
        }
      }
      longest = Math.max(longest, minutes() - began);
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

function minutes(): number {
  return (performance.now() - start) / 60_000;
}
