// A storm on the budgets: `npm run storm`. Many clients in several processes reserve and settle what is never sent, all
// of it from a seed; a process and the server are killed; in the end what clients were told is compared with the books.
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { withClient } from "../../src/migrate.ts";
import { Progress } from "../../src/progress.ts";
import { Place } from "./processes.ts";
import { countsOf } from "./report.ts";
import { type StormServer, stormServer } from "./server.ts";
import { operator, slowDisk, stormTenants, sweeper } from "./tenants.ts";
import { booksOf, type Check, checkOf, errorsOf, holdsOf, toldOf } from "./verdict.ts";

const PROCESSES = 4;
const CLIENTS = 200;
/** After the server is back a connection that broke may still be found so, and one be waited for. */
const BACK_MS = 6_000;

const HELP = `npm run storm -- [--seconds 60] [--seed 1] [--keep]

  ${CLIENTS} clients in ${PROCESSES} processes reserve, clamp, settle (whole, in parts, twice, late), release, extend and abandon,
  under 8 sets of scopes, for 501 tenants, of which one has half of the calls; the sweepers and an operator who raises
  limits go on beside them. After a third of the time a process is killed (kill -9) and taken over; after half of it
  the server, which recovers; in the last third every commit waits 1 ms longer for the disk (commit_delay). Then what
  each client was told is compared with the database. On an embedded server of its own, with fsync.

  What calls do follows from the seed; in which order they come does not.

  --seconds N   how long it blows, at least 3; starting, stopping and comparing come on top
  --seed N      what the calls do
  --keep        leave the files of what clients were told, and the log of the server, where they are

Exit: 0 nothing was found, 1 something was, 2 wrong usage.`;

type Options = { seconds: number; seed: number; keep: boolean };

const options = read();
if (options !== undefined) process.exitCode = await storm(options);

function read(): Options | undefined {
  try {
    const { values } = parseArgs({
      options: {
        seconds: { type: "string", default: "60" },
        seed: { type: "string", default: "1" },
        keep: { type: "boolean", default: false },
        help: { type: "boolean", short: "h" },
      },
    });
    const [seconds, seed] = [Number(values.seconds), Number(values.seed)];
    if (values.help) process.stdout.write(`${HELP}\n`);
    else if (seconds >= 3 && seconds <= 86_400 && Number.isInteger(seed) && seed > 0)
      return { seconds, seed, keep: values.keep };
    else throw new Error("--seconds is a number from 3 on, --seed a whole one above 0.");
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${HELP}\n`);
    process.exitCode = 2;
  }
  return undefined;
}

async function storm({ seconds, seed, keep }: Options): Promise<number> {
  const progress = new Progress();
  const folder = mkdtempSync(join(tmpdir(), "holdfast-storm-told-"));
  const server = await stormServer(folder);
  try {
    const tenants = await stormTenants(server);
    progress.say(`storm with seed ${seed} for ${seconds} s; what clients are told is in ${folder}`);
    const url = server.url("holdfast_service");
    const places = Array.from(
      { length: PROCESSES },
      (_, at) =>
        new Place({ url, seed, tenants, folder, name: `process${at}`, clients: CLIENTS / PROCESSES }),
    );
    const weather = await blow(server, places, seconds, progress);
    const checks = await verdict(server, places, weather);
    print(
      countsOf(
        places.map((place) => place.lines()),
        weather,
      ),
    );
    print(checks.map(({ check, found }) => [check, found === 0 ? "none" : `FOUND ${found}`]));
    for (const { check, found, proof } of checks)
      if (found > 0) process.stdout.write(`${check}:\n${JSON.stringify(proof, null, 1)}\n`);
    return checks.some(({ found }) => found > 0) ? 1 : 0;
  } finally {
    progress.clear();
    await server.stop();
    if (!keep) await rm(folder, { recursive: true });
  }
}

/** What happened while it blew. */
export type Weather = {
  seconds: number;
  /** When connections may be lost, in ms of Unix time. */
  away: [number, number];
  /** How long the server was away. */
  crashMs: number;
  deadlocks: number;
  swept: number;
  raised: number;
  failures: string[];
};

async function blow(
  server: StormServer,
  places: readonly Place[],
  seconds: number,
  progress: Progress,
): Promise<Weather> {
  const others = [sweeper(server), sweeper(server), operator(server)] as const;
  try {
    await Promise.all(places.map((place) => place.start()));
    const began = performance.now();
    const after = async (share: number, next: string) => {
      await sleep(share * seconds * 1_000);
      progress.say(`${Math.round((performance.now() - began) / 1_000)} s: ${next}`);
    };
    await after(1 / 3, "a process is killed");
    await places[0]!.kill();
    await places[0]!.start();

    await after(1 / 6, "the server is killed");
    let deadlocks = await deadlocksOf(server);
    const from = Date.now();
    await server.crash();
    const back = Date.now();

    await after(1 / 6, "the disk is slow");
    await slowDisk(server);
    await after(1 / 3, "all is to end");
    const lasted = (performance.now() - began) / 1_000;
    await Promise.all(places.map((place) => place.stop()));
    await Promise.all(others.map((other) => other.stop()));
    deadlocks += await deadlocksOf(server);
    return {
      seconds: lasted,
      away: [from, back + BACK_MS],
      crashMs: back - from,
      deadlocks,
      swept: others[0].count + others[1].count,
      raised: others[2].count,
      failures: others.flatMap((other) => other.failures),
    };
  } finally {
    await Promise.all(places.map((place) => place.kill()));
    await Promise.all(others.map((other) => other.stop()));
  }
}

/** Since the last recovery, which forgets them. */
async function deadlocksOf(server: StormServer): Promise<number> {
  return withClient(server.superuser, async (superuser) => {
    const { rows } = await superuser.query(
      "select deadlocks::int from pg_stat_database where datname = current_database()",
    );
    return rows[0].deadlocks;
  });
}

async function verdict(server: StormServer, places: readonly Place[], weather: Weather): Promise<Check[]> {
  const lines = places.flatMap((place) => place.lines());
  const log = server.log().split("\n");
  const logged = (pattern: RegExp) => log.filter((line) => pattern.test(line));
  const deadlocks = checkOf("deadlocks", logged(/deadlock detected/));
  return [
    ...(await booksOf(server)),
    { ...deadlocks, found: Math.max(deadlocks.found, weather.deadlocks) },
    ...toldOf(lines, await holdsOf(server)),
    ...errorsOf(lines, weather.away),
    checkOf("a sweep, or a change of a limit, failed", weather.failures),
    checkOf(
      "a process ended by itself",
      places.flatMap((place) => place.faults),
    ),
    checkOf("the server fell by itself", logged(/PANIC|was terminated by signal/)),
  ];
}

function print(rows: readonly (readonly [string, string | number])[]): void {
  const width = Math.max(0, ...rows.map(([name]) => name.length));
  for (const [name, value] of rows) process.stdout.write(`${name.padEnd(width)}  ${value}\n`);
  process.stdout.write("\n");
}
