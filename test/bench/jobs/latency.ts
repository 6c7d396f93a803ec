// How long a run waits for its start when nothing else is to be done.
import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import { withClient } from "../../../src/migrate.ts";
import { mintTicket } from "../../../src/tickets.ts";
import { TEST_TICKET_KEY } from "../../support/constants.ts";
import { quantile } from "../rls/rounds.ts";
import { startProcess } from "./processes.ts";
import { clear, KIND, type Scene } from "./scene.ts";
import { clock } from "./words.ts";

/** In ms, from the call of app.job_enqueue, its own time included, to the first line of the task. */
export type Latency = {
  samples: number;
  p50: number;
  p95: number;
  p99: number;
  most: number;
  enqueue_p50: number;
  /** For p95. */
  target: number;
  reached: boolean;
};

/** Of p95, in ms. */
const TARGET_MS = 10;

/** What a start may take at most, in ms; beyond it, something is wrong. */
const LOST_MS = 30_000;

/** Each sample after a pause of chance: neither a poll nor a delay of the queue can be in step with them. */
export async function measureLatency(scene: Scene, concurrency: number, samples: number): Promise<Latency> {
  await clear(scene);
  const waiting = new Map<string, (at: number) => void>();
  const early = new Map<string, number>();
  const order = { work: "ours", url: scene.ours.url("holdfast_worker"), concurrency, tells: true } as const;
  const worker = await startProcess(order, (run, at) => {
    const tell = waiting.get(run);
    if (tell === undefined) early.set(run, at);
    else tell(at);
  });
  try {
    const times: number[] = [];
    const calls: number[] = [];
    await withClient({ connectionString: scene.ours.url("holdfast_service") }, async (client) => {
      const tenants = await tenantsOf(scene);
      for (let sample = -20; sample < samples; sample += 1) {
        await sleep(5 + Math.random() * 120);
        const began = clock();
        const run = await enqueue(client, tenants[Math.floor(Math.random() * tenants.length)]!);
        const queued = clock();
        const started =
          early.get(run) ??
          (await Promise.race([
            new Promise<number>((resolve) => waiting.set(run, resolve)),
            sleep(LOST_MS, undefined, { ref: false }).then(() => {
              throw new Error("a run did not start within 30 s");
            }),
          ]));
        waiting.delete(run);
        if (sample < 0) continue; // plans are made
        times.push(started - began);
        calls.push(queued - began);
      }
    });
    const p95 = quantile(times, 0.95);
    return {
      samples,
      p50: quantile(times, 0.5),
      p95,
      p99: quantile(times, 0.99),
      most: Math.max(...times),
      enqueue_p50: quantile(calls, 0.5),
      target: TARGET_MS,
      reached: p95 < TARGET_MS,
    };
  } finally {
    await worker.end();
  }
}

/** The ids of all tenants of the scene. */
export async function tenantsOf(scene: Scene): Promise<string[]> {
  return withClient(scene.ours.superuser, async (client) => {
    const { rows } = await client.query<{ tenant_id: string }>("select tenant_id from app.tenants");
    return rows.map((row) => row.tenant_id);
  });
}

/** Enqueues a run as the shell does, with a ticket for the connection; gives its id. */
export async function enqueue(client: pg.Client, tenant: string): Promise<string> {
  const { processID } = client as unknown as { processID: number };
  const { rows } = await client.query<{ run_id: string }>(
    "select run_id from app.job_enqueue($1, $2, kind => $3)",
    [tenant, mintTicket(TEST_TICKET_KEY, tenant, processID), KIND],
  );
  return rows[0]!.run_id;
}
