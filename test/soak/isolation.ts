// The fuzz of test/attack for as long as one likes: `npm run soak`. It begins at a seed, takes 5,000 statements from
// each, and says where to go on. Progress is on stderr, the result on stdout as one JSON document.
import { parseArgs } from "node:util";
import type { TestProject } from "vitest/node";
import { type Fuzzed, fuzz } from "../attack/fuzzing.ts";
import { newTally } from "../attack/probe.ts";
import { attackScene } from "../attack/scene.ts";
import { hasSqlsmith } from "../attack/sqlsmith.ts";
import type { TestServer } from "../support/constants.ts";
import setup from "../support/server.ts";
import { cloneOf } from "./clone.ts";

const PER_SEED = 5_000;
const HELP = `npm run soak -- [--statements 200000] [--seed 1] [--minutes N]

  Runs random statements (sqlsmith) as one tenant and looks for what is another tenant's in all that comes
  back, and for changes of its rows. On the server of TEST_DATABASE_URL, else on the embedded one.

  --statements N   how many; ${PER_SEED} for each seed
  --seed N         the first seed; to go on after an earlier run, its "next_seed"
  --minutes N      end after so many minutes, at the end of a seed

Exit: 0 nothing was found, 1 something was (the result has the seed and the statement), 2 wrong usage.`;

console.info = console.error; // which server it is, is progress: stdout is for the result
const options = read();
if (options !== undefined) process.exitCode = await soak(options);

type Options = { statements: number; seed: number; minutes: number };

function read(): Options | undefined {
  try {
    const { values } = parseArgs({
      options: {
        statements: { type: "string", default: "200000" },
        seed: { type: "string", default: "1" },
        minutes: { type: "string", default: "100000" },
        help: { type: "boolean", short: "h" },
      },
    });
    const numbers = [values.statements, values.seed, values.minutes].map(Number);
    if (values.help) process.stdout.write(`${HELP}\n`);
    else if (numbers.every((number) => Number.isInteger(number) && number > 0)) {
      const [statements, seed, minutes] = numbers as [number, number, number];
      return { statements, seed, minutes };
    } else throw new Error("Every option is a whole number above 0.");
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${HELP}\n`);
    process.exitCode = 2;
  }
  return undefined;
}

async function soak(of: Options): Promise<number> {
  if (!hasSqlsmith()) throw new Error("sqlsmith is not installed. On Debian: apt-get install sqlsmith");
  let server: TestServer | undefined;
  const stop = await setup({
    provide: (_: string, value: TestServer) => (server = value),
  } as unknown as TestProject);
  try {
    return await onServer(server!, of);
  } finally {
    await stop();
  }
}

async function onServer(server: TestServer, { statements, seed: first, minutes }: Options): Promise<number> {
  const clone = await cloneOf(server);
  const began = performance.now();
  const seconds = () => Math.round((performance.now() - began) / 1_000);
  const total = newTally();
  let seed = first;
  let found: Fuzzed | undefined;
  try {
    const { database } = clone;
    const { rows } = await database.superuser.query("show server_version");
    const scene = await attackScene(database);
    while (total.statements < statements && seconds() < minutes * 60) {
      const count = Math.min(PER_SEED, statements - total.statements);
      const result = await fuzz({ database, scene, server, seed, statements: count, catalogShare: 0.25 });
      add(total, result.tally);
      if (result.findings.length > 0 || result.changed.length > 0) {
        found = result;
        break;
      }
      seed += 1;
      process.stderr.write(`${seconds()} s: ${total.statements} statements, next seed ${seed}\n`);
    }
    const outcome = {
      server_version: rows[0].server_version,
      first_seed: first,
      next_seed: seed,
      seconds: seconds(),
      ...total,
      found: found === undefined ? null : { seed, findings: found.findings, changed: found.changed },
    };
    process.stdout.write(`${JSON.stringify(outcome, null, 2)}\n`);
  } finally {
    await clone.drop();
  }
  return found === undefined ? 0 : 1;
}

/** Adds the numbers of one object to those of another, whatever their depth. */
function add(total: object, more: object): void {
  const sums = total as Record<string, unknown>;
  for (const [key, value] of Object.entries(more)) {
    if (typeof value === "number") sums[key] = Number(sums[key] ?? 0) + value;
    else {
      sums[key] ??= {};
      add(sums[key] as object, value as object);
    }
  }
}
