// What a worker weighs while it does very many runs.
import { setTimeout as sleep } from "node:timers/promises";
import { withClient } from "../../../src/migrate.ts";
import { startProcess } from "./processes.ts";
import { clear, type Scene, seedRuns } from "./scene.ts";

/** After so many runs; MB of the worker's resident set. */
export type Weight = { runs: number; seconds: number; rss_mb: number };

/** Keeps a backlog before one worker until it has done so many runs; weighs it after each tenth. */
export async function weigh(
  scene: Scene,
  concurrency: number,
  runs: number,
  say: (what: string) => void,
): Promise<Weight[]> {
  await clear(scene);
  // So many of each tenant are in the queue; more would be beyond what a tenant may have there.
  const most = Math.min(scene.tenants * 50, Math.ceil(runs / 10));
  let seeded = await seedRuns(scene, most, true);
  const order = { work: "ours", url: scene.ours.url("holdfast_worker"), concurrency, tells: false } as const;
  const worker = await startProcess(order);
  const began = performance.now();
  const weights: Weight[] = [];
  try {
    while (weights.length < 10) {
      const { done, rssBytes } = await worker.read();
      if (done >= (runs * (weights.length + 1)) / 10) {
        const seconds = (performance.now() - began) / 1000;
        weights.push({ runs: done, seconds, rss_mb: rssBytes / 2 ** 20 });
        say(`${done} runs: ${Math.round(rssBytes / 2 ** 20)} MB, ${Math.round(done / seconds)} runs/s`);
      }
      if (seeded < runs && seeded - done < most / 2)
        seeded += await seedRuns(scene, Math.ceil(most / 2), true);
      else if (done >= seeded && seeded >= runs) break;
      else await sleep(100);
    }
    return weights;
  } finally {
    await worker.end();
    await withClient(scene.ours.superuser, (client) => client.query("analyze"));
  }
}
