// The sides of the comparison, and one round of one of them.
import { setTimeout as sleep } from "node:timers/promises";
import { withClient } from "../../../src/migrate.ts";
import { type Chunks, type Process, startPgbench, startProcess } from "./processes.ts";
import {
  admitPgbench,
  clear,
  type Scene,
  seedBacklog,
  seedBoss,
  seedRuns,
  seedTokens,
  settle,
} from "./scene.ts";
import { type Calls, clock, type Work } from "./words.ts";

/** What one round of a side came to; CPU in µs per run, `together` in runs per call. */
export type Round = {
  perSecond: number;
  serverCpu: number | undefined;
  clientCpu: number;
  rssMb: number;
  together: Chunks | undefined;
};

/**
 * Where a round runs. Before it counts, connections plan what they do, for `warmUpMs`. `empty` starts the worker on
 * tables that are empty, and were never analysed if they are new. `chunks` are those of pgbench.
 */
export type Setting = {
  scene: Scene;
  concurrency: number;
  seconds: number;
  warmUpMs: number;
  chunks: Chunks;
  empty?: boolean;
};

type Side = {
  name: string;
  /** What it does, for who has not read this. */
  does: string;
  /** Runs per second that no machine of today reaches: so many wait. */
  most: number;
  /** Whether it is one of the two of a ratio, measured in every round; others are there to compare, once. */
  compared: boolean;
  seed(scene: Scene, runs: number): Promise<number>;
  start(scene: Scene, concurrency: number, chunks: Chunks): Promise<Process>;
};

/** One run in each statement. */
const ONE: Chunks = { claim: 1, end: 1 };

const worker = (work: Work, peers: boolean) => (scene: Scene, concurrency: number) =>
  startProcess({
    work,
    url: peers ? scene.peers.url : scene.ours.url("holdfast_worker"),
    concurrency,
    tells: false,
  });

async function inPgbench(scene: Scene, clients: number, chunks: Chunks): Promise<Process> {
  await admitPgbench(scene);
  return startPgbench(scene, clients, chunks);
}

/** All sides. */
export const SIDES = {
  ours: {
    name: "holdfast worker",
    does: "one process as it is shipped: runs that come together are claimed and completed in chunks; a state and two audit rows for each",
    most: 7_000,
    compared: true,
    seed: seedRuns,
    start: worker("ours", false),
  },
  pgbenchChunked: {
    name: "pgbench, the worker's SQL in chunks",
    does: "the statements of the worker without the worker: tokens taken from the queue, app.job_claim, app.job_complete_many, tokens removed, in chunks as large as the worker's were just before; as many clients as runs at a time",
    most: 11_000,
    compared: true,
    seed: seedRuns,
    start: inPgbench,
  },
  pgbenchTwo: {
    name: "pgbench, the same with two clients",
    does: "as many statements under way as the worker has, which sends one claim and one completion at a time, however many runs it has",
    most: 11_000,
    compared: true,
    seed: seedRuns,
    start: (scene, _concurrency, chunks) => inPgbench(scene, 2, chunks),
  },
  single: {
    name: "holdfast, one run per statement",
    does: "the same queue and the same functions, but an app.job_claim and an app.job_complete_many for each run alone: no chunks",
    most: 5_000,
    compared: true,
    seed: seedRuns,
    start: worker("single", false),
  },
  bossLoops: {
    name: "pg-boss, fetch(1) and complete",
    does: "as many loops as runs at a time, each of which fetches one job and completes it; pg-boss's own state, no audit, no tenants",
    most: 5_000,
    compared: true,
    seed: seedBoss,
    start: worker("bossLoops", true),
  },
  pgbenchSingle: {
    name: "pgbench, one run per statement",
    does: "the statements of the worker without the worker, each for one run",
    most: 5_000,
    compared: false,
    seed: seedRuns,
    start: (scene, concurrency) => inPgbench(scene, concurrency, ONE),
  },
  bossWork: {
    name: "pg-boss, work()",
    does: "pg-boss's own workers, as many as runs at a time, one job each; they poll",
    most: 3_000,
    compared: false,
    seed: seedBoss,
    start: worker("bossWork", true),
  },
  bossBatches: {
    name: "pg-boss, work() by tens",
    does: "the same, ten jobs each, with a result for each job",
    most: 25_000,
    compared: false,
    seed: seedBoss,
    start: worker("bossBatches", true),
  },
  graphile: {
    name: "bare graphile-worker",
    does: "its jobs alone, which are gone when they are done: no state, no audit, no tenants",
    most: 30_000,
    compared: false,
    seed: seedTokens,
    start: worker("graphile", true),
  },
  oneTenant: {
    name: "holdfast worker, one tenant's backlog",
    does: "all runs are of one tenant, which has at most 100 of them in the queue: each end admits the next",
    most: 6_000,
    compared: false,
    seed: seedBacklog,
    start: worker("ours", false),
  },
} as const satisfies Record<string, Side>;

/** The names of the sides. */
export type SideName = keyof typeof SIDES;

/** Whether a side is seeded in our database, where what it completes can be counted. */
const isOurs = (side: Side) => side.seed === seedRuns || side.seed === seedBacklog;

/** Seeds more than can be done, lets the side warm up, and counts what it does in so many seconds. */
export async function round(name: SideName, setting: Setting): Promise<Round> {
  const { scene, concurrency, seconds, warmUpMs, chunks, empty } = setting;
  const side: Side = SIDES[name];
  const wanted = Math.ceil(side.most * (seconds + warmUpMs / 1000));
  await clear(scene);
  if (empty) {
    const process = await side.start(scene, concurrency, chunks);
    return ending(process, async () => counted(process, side, setting, await side.seed(scene, wanted)));
  }
  const total = await side.seed(scene, wanted);
  await settle(isOurs(side) ? scene.ours.superuser : scene.peers.superuser);
  const process = await side.start(scene, concurrency, chunks);
  return ending(process, () => counted(process, side, setting, total));
}

async function ending<T>(process: Process, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } finally {
    await process.end();
  }
}

async function counted(
  process: Process,
  side: Side,
  { scene, seconds, warmUpMs }: Setting,
  total: number,
): Promise<Round> {
  const limit = performance.now() + 30_000;
  while ((await process.read()).done === 0) {
    if (performance.now() > limit) throw new Error(`${side.name}: nothing was done within 30 s`);
    await sleep(10);
  }
  await sleep(warmUpMs);
  const before = await readAll(process, scene);
  const until = performance.now() + seconds * 1000;
  let after = before;
  while (performance.now() < until && after.done < total && !after.isOver) {
    await sleep(Math.max(10, Math.min(100, until - performance.now())));
    after = await readAll(process, scene);
  }
  if (isOurs(side)) await refuseUncompleted(scene, side, after.done);
  const runs = after.done - before.done;
  const wall = ((after.done >= total || after.isOver ? after.lastAt : after.at) - before.at) / 1000;
  return {
    perSecond: runs / wall,
    serverCpu: after.server === undefined ? undefined : ((after.server - before.server!) * 1e6) / runs,
    clientCpu: ((after.cpuSeconds - before.cpuSeconds) * 1e6) / runs,
    rssMb: after.rssBytes / 2 ** 20,
    together: before.calls && after.calls && togetherOf(runs, before.calls, after.calls),
  };
}

/** What a side says that it has done, the database must say, too. */
async function refuseUncompleted(scene: Scene, side: Side, done: number): Promise<void> {
  const { rows } = await withClient(scene.ours.superuser, (client) =>
    client.query<{ runs: number; audited: number }>(
      `select (select count(*) from app.job_runs where state = 'COMPLETED')::integer as runs,
              (select count(*) from app.job_run_events where to_state = 'COMPLETED')::integer as audited`,
    ),
  );
  const { runs, audited } = rows[0]!;
  // A chunk of pgbench that was the last one may hold fewer.
  if (Math.min(runs, audited) < done * 0.99) {
    throw new Error(`${side.name} says ${done} runs, the database ${runs} with ${audited} audit rows`);
  }
}

function togetherOf(runs: number, before: Calls, after: Calls): Chunks | undefined {
  const [claims, ends] = [after.claim - before.claim, after.end - before.end];
  return claims === 0 || ends === 0 ? undefined : { claim: runs / claims, end: runs / ends };
}

async function readAll(process: Process, scene: Scene) {
  const reading = await process.read();
  return { ...reading, at: clock(), server: scene.server.cpuSeconds() };
}
