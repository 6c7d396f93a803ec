// The sides of the comparison, and one round of one of them.
import { setTimeout as sleep } from "node:timers/promises";
import { type Process, startPgbench, startProcess } from "./processes.ts";
import {
  clear,
  dealChunks,
  type Scene,
  seedBacklog,
  seedBoss,
  seedRuns,
  seedTokens,
  settle,
} from "./scene.ts";
import { clock, type Work } from "./words.ts";

/** What one round of a side came to; CPU in µs per run. */
export type Round = { perSecond: number; serverCpu: number | undefined; clientCpu: number; rssMb: number };

/**
 * Where a round runs. Before it counts, connections plan what they do, for `warmUpMs`. `empty` starts the worker on
 * tables that are empty, and were never analysed if they are new.
 */
export type Setting = {
  scene: Scene;
  concurrency: number;
  seconds: number;
  warmUpMs: number;
  empty?: boolean;
};

type Side = {
  name: string;
  /** Runs per second that no machine of today reaches: so many wait. */
  most: number;
  seed(scene: Scene, runs: number, concurrency: number): Promise<number>;
  start(scene: Scene, concurrency: number): Promise<Process>;
};

/** Runs that a worker's claim takes on the average, when it has enough to do: its queue's refill. */
export const chunkOf = (concurrency: number) => Math.max(2, concurrency);

const withTokens = (scene: Scene, runs: number) => seedRuns(scene, runs, true);

async function inChunks(scene: Scene, runs: number, size: number): Promise<number> {
  const made = await seedRuns(scene, runs, false);
  await dealChunks(scene, size);
  return made;
}

const worker = (work: Work, peers: boolean) => (scene: Scene, concurrency: number) =>
  startProcess({
    work,
    url: peers ? scene.peers.url : scene.ours.url("holdfast_worker"),
    concurrency,
    tells: false,
  });

/** All sides. */
export const SIDES = {
  ours: { name: "worker", most: 8_000, seed: withTokens, start: worker("ours", false) },
  pgbenchChunked: {
    name: "pgbench, the same SQL, chunked",
    most: 10_000,
    seed: (scene, runs, concurrency) => inChunks(scene, runs, chunkOf(concurrency)),
    start: (scene, concurrency) => startPgbench(scene, concurrency, chunkOf(concurrency)),
  },
  single: { name: "a claim for each run", most: 6_000, seed: withTokens, start: worker("single", false) },
  pgbenchSingle: {
    name: "pgbench, a claim for each run",
    most: 8_000,
    seed: (scene, runs) => inChunks(scene, runs, 1),
    start: (scene, concurrency) => startPgbench(scene, concurrency, 1),
  },
  bossLoops: {
    name: "pg-boss, fetch(1) and complete",
    most: 5_000,
    seed: seedBoss,
    start: worker("bossLoops", true),
  },
  bossWork: { name: "pg-boss, work", most: 5_000, seed: seedBoss, start: worker("bossWork", true) },
  bossBatches: {
    name: "pg-boss, work by tens",
    most: 30_000,
    seed: seedBoss,
    start: worker("bossBatches", true),
  },
  graphile: { name: "bare graphile-worker", most: 40_000, seed: seedTokens, start: worker("graphile", true) },
  oneTenant: {
    name: "worker, one tenant with a backlog",
    most: 6_000,
    seed: seedBacklog,
    start: worker("ours", false),
  },
} as const satisfies Record<string, Side>;

/** The names of the sides. */
export type SideName = keyof typeof SIDES;

/** Seeds more than can be done, lets the side warm up, and counts what it does in so many seconds. */
export async function round(name: SideName, setting: Setting): Promise<Round> {
  const { scene, concurrency, seconds, warmUpMs, empty } = setting;
  const side: Side = SIDES[name];
  const wanted = Math.ceil(side.most * (seconds + warmUpMs / 1000));
  await clear(scene);
  if (empty) {
    const process = await side.start(scene, concurrency);
    return ending(process, async () =>
      counted(process, setting, await side.seed(scene, wanted, concurrency)),
    );
  }
  const total = await side.seed(scene, wanted, concurrency);
  await settle(scene.ours.superuser);
  await settle(scene.peers.superuser);
  const process = await side.start(scene, concurrency);
  return ending(process, () => counted(process, setting, total));
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
  { scene, seconds, warmUpMs }: Setting,
  total: number,
): Promise<Round> {
  const limit = performance.now() + 30_000;
  while ((await process.read()).done === 0) {
    if (performance.now() > limit) throw new Error("nothing was done within 30 s");
    await sleep(10);
  }
  await sleep(warmUpMs);
  const before = await readAll(process, scene);
  const until = performance.now() + seconds * 1000;
  let after = before;
  while (performance.now() < until && after.done < total) {
    await sleep(Math.max(10, Math.min(100, until - performance.now())));
    after = await readAll(process, scene);
  }
  const runs = after.done - before.done;
  const wall = ((after.done === total ? after.lastAt : after.at) - before.at) / 1000;
  return {
    perSecond: runs / wall,
    serverCpu: after.server === undefined ? undefined : ((after.server - before.server!) * 1e6) / runs,
    clientCpu: ((after.cpuSeconds - before.cpuSeconds) * 1e6) / runs,
    rssMb: after.rssBytes / 2 ** 20,
  };
}

async function readAll(process: Process, scene: Scene) {
  const reading = await process.read();
  return { ...reading, at: clock(), server: scene.server.cpuSeconds() };
}
