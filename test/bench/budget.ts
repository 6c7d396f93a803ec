// How many reservations of money a second, and how long one waits: five ways, one after the other. Asserts nothing.
// `npm run bench:budget -- --help`.
import { withClient } from "../../src/migrate.ts";
import { asMarkdown, type Line, lineOf, type Report, targetsOf } from "./budget/print.ts";
import { makeScene, type Scene, type Spread } from "./budget/scene.ts";
import { type Round, round, SIDES, type Side } from "./budget/sides.ts";
import { observed } from "./conditions.ts";
import { hasPgbench } from "./jobs/processes.ts";
import { numbersOf, optionsOf } from "./options.ts";
import { openServer } from "./server.ts";

const HELP = `npm run bench:budget -- [--callers 1,16,64] [--rounds 3] [--seconds 2] [--tenants 1000] [--quick] [--json]

Reservations per second, p50 and p99, for one hot tenant and for many, at so many callers:
(a) the textbook: lock the budget, add up 1,000 open reservations, insert; one call of a function
(b) app.llm_reserve, one call each
(c) the coalescer of the shell, which joins what comes while a statement is under way
(d) batches of the size that (c) reached, sent by pgbench: as many at once as (c) has under way
(e) the floor: the same rows by (d)'s rules, as plain SQL without a check, into tables with equal columns and indexes
and last, pairs of reserve and settle through the coalescer. (a) to (c) are callers in one process of Node, with as
many connections; the waits of (d) and (e) are those of a batch. Targets beside the figures.

Without more, on an embedded server of its own in a temporary folder, in about seven minutes; --quick is one short
round, under a minute. BENCH_DATABASE_URL, or else TEST_DATABASE_URL, names another server, by the URL of a superuser:
it works there in a scratch database, which it drops, and sets the passwords of our logins. (d) and (e) are left out
where there is no pgbench. Medians; tables in markdown on stdout, or JSON; progress on stderr.`;

/** Durable, as a server is that people rely on. */
const SETTINGS = {
  shared_buffers: "1GB",
  max_wal_size: "8GB",
  checkpoint_timeout: "15min",
  max_connections: "200",
};

const SCRIPT = "bench:budget";
const options = optionsOf(SCRIPT, {
  callers: { type: "string", default: "1,16,64" },
  rounds: { type: "string" },
  seconds: { type: "string" },
  tenants: { type: "string", default: "1000" },
  quick: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
});

type Plan = { callers: number[]; rounds: number; seconds: number; tenants: number; warmUpMs: number };

const start = performance.now();

if (options.help) {
  console.log(HELP);
} else {
  const report = await bench({
    callers: numbersOf(SCRIPT, "callers", options.callers),
    rounds: numbersOf(SCRIPT, "rounds", options.rounds ?? (options.quick ? "1" : "3"))[0]!,
    seconds: numbersOf(SCRIPT, "seconds", options.seconds ?? (options.quick ? "0.4" : "2"), {
      least: 0.1,
      fraction: true,
    })[0]!,
    tenants: numbersOf(SCRIPT, "tenants", options.tenants)[0]!,
    warmUpMs: options.quick ? 200 : 500,
  });
  console.log(options.json ? JSON.stringify(report, null, 2) : asMarkdown(report));
}

async function bench(plan: Plan): Promise<Report> {
  say("starting");
  const conditionsOf = observed();
  const where = process.env["BENCH_DATABASE_URL"] || process.env["TEST_DATABASE_URL"] || "embedded";
  const server = await openServer(where, SETTINGS);
  const interrupted = () => void server.stop().finally(() => process.exit(130));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, interrupted);
  try {
    const { rounds, seconds, tenants } = plan;
    say(`PostgreSQL ${server.version}: making ${tenants} tenants`);
    const scene = await makeScene(server, tenants);
    const lines = await measure(scene, plan);
    await proveSound(scene);
    return {
      conditions: await conditionsOf(server),
      tenants,
      rounds,
      seconds,
      lines,
      targets: targetsOf(lines),
    };
  } finally {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, interrupted);
    await server.stop();
    say("done");
  }
}

async function measure(scene: Scene, plan: Plan): Promise<Line[]> {
  const pgbench = await hasPgbench();
  if (!pgbench) say("pgbench is not installed: (d) and (e) are left out");
  // In this order, for (d) and (e) need the size of the batches of (c).
  const sides = (Object.keys(SIDES) as Side[]).filter(
    (side) => pgbench || (side !== "batches" && side !== "floor"),
  );
  const lines: Line[] = [];
  for (const spread of ["hot", "many"] as Spread[]) {
    for (const callers of plan.callers) {
      const measured = new Map<Side, Round[]>(sides.map((side) => [side, []]));
      for (let each = 0; each < plan.rounds; each += 1) {
        for (const side of sides) {
          const batch = measured.get("coalesced")!.at(-1)?.batch ?? 1;
          const setting = { spread, callers, seconds: plan.seconds, warmUpMs: plan.warmUpMs };
          const one = await round(scene, side, setting, batch);
          say(
            `${spread}, ${callers}: ${SIDES[side]} ${Math.round(one.perSecond)}/s, p99 ${one.p99.toFixed(2)} ms`,
          );
          measured.get(side)!.push(one);
        }
      }
      lines.push(...sides.map((side) => lineOf(side, spread, callers, measured.get(side)!)));
    }
  }
  return lines;
}

/** A fast ledger that is wrong is none. */
async function proveSound(scene: Scene): Promise<void> {
  await withClient(scene.scratch.superuser, async (client) => {
    await client.query("set statement_timeout = 0");
    const { rows } = await client.query("select * from app.llm_check() limit 5");
    if (rows.length > 0) throw new Error(`llm_check: ${JSON.stringify(rows)}`);
  });
}

function say(what: string): void {
  console.error(`${((performance.now() - start) / 1000).toFixed(0).padStart(4)} s  ${what}`);
}
