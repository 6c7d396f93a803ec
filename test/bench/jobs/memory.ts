// What a worker weighs while it does very many runs.
import { setTimeout as sleep } from "node:timers/promises";
import { withClient } from "../../../src/migrate.ts";
import { median } from "../rls/rounds.ts";
import { startProcess } from "./processes.ts";
import { clear, type Scene, seedRuns } from "./scene.ts";

/** After so many runs; MB of the worker's resident set, and of the JavaScript heap in use. */
export type Weight = { runs: number; seconds: number; rss_mb: number; heap_mb: number };

/** One worker's weights, and what the last quarter weighs over the second: the first warms up. */
export type Memory = { concurrency: number; weights: Weight[]; growth: number; target: number };

/** How often it is weighed. */
const WEIGHINGS = 20;

/** How long the worker may do nothing, in ms; beyond it, something is wrong. */
const STUCK_MS = 60_000;

/** Flat: what is collected late may lie about, what leaks is more with every run. */
const TARGET = 1.1;

/** Keeps a backlog before one worker until it has done so many runs; weighs it after each twentieth. */
export async function weigh(
  scene: Scene,
  concurrency: number,
  runs: number,
  say: (what: string) => void,
): Promise<Memory> {
  await clear(scene);
  // So many of each tenant are in the queue; more would be beyond what a tenant may have there.
  const most = Math.min(scene.tenants * 50, Math.ceil(runs / 10));
  let seeded = await seedRuns(scene, most);
  const order = { work: "ours", url: scene.ours.url("holdfast_worker"), concurrency, tells: false } as const;
  const worker = await startProcess(order);
  const began = performance.now();
  const weights: Weight[] = [];
  let last = { done: 0, at: began };
  try {
    while (weights.length < WEIGHINGS) {
      const { done, rssBytes, heapBytes } = await worker.read();
      if (done >= (runs * (weights.length + 1)) / WEIGHINGS) {
        const weight = {
          runs: done,
          seconds: (performance.now() - began) / 1000,
          rss_mb: rssBytes / 2 ** 20,
          heap_mb: heapBytes / 2 ** 20,
        };
        weights.push(weight);
        say(told(weight));
      }
      if (done > last.done) last = { done, at: performance.now() };
      else if (performance.now() - last.at > STUCK_MS)
        throw new Error(`no run has ended for 60 s, of ${done}`);
      if (seeded < runs && seeded - done < most / 2) seeded += await seedRuns(scene, Math.ceil(most / 2));
      else await sleep(100);
    }
  } finally {
    await worker.end();
    await withClient(scene.ours.superuser, (client) => client.query("analyze"));
  }
  return { concurrency, weights, growth: growthOf(weights), target: TARGET };
}

function told({ runs, seconds, rss_mb, heap_mb }: Weight): string {
  const rate = Math.round(runs / seconds);
  return `${runs} runs: ${Math.round(rss_mb)} MB resident, ${Math.round(heap_mb)} MB of heap, ${rate} runs/s`;
}

function growthOf(weights: Weight[]): number {
  const quarter = weights.length / 4;
  const of = (from: number) => median(weights.slice(from, from + quarter).map((weight) => weight.rss_mb));
  return of(3 * quarter) / of(quarter);
}
