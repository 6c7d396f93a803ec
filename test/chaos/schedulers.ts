// Schedulers that all tick at once, again and again, as if as many workers did.
import { setTimeout as sleep } from "node:timers/promises";
import { createPool } from "../../src/db.ts";
import type { Scene } from "./scene.ts";
import type { Tally } from "./tally.ts";

/** How many at once, and the longest pause of each between two ticks. */
const SCHEDULERS = 32;
const PAUSE_MS = 2_000;

/** What they have done. */
export type Ticking = { ticks: number; runs: number; longestMs: number; stop(): Promise<void> };

/** Starts them. */
export function startSchedulers(scene: Scene, tally: Tally): Ticking {
  const pool = createPool({
    connectionString: scene.url("holdfast_worker"),
    application_name: "chaos_scheduler",
    max: SCHEDULERS,
  });
  const stopping = new AbortController();
  let stopped: Promise<void> | undefined;
  const ticking: Ticking = {
    ticks: 0,
    runs: 0,
    longestMs: 0,
    stop: () => {
      stopping.abort();
      stopped ??= all.then(() => pool.end());
      return stopped;
    },
  };
  const tick = async () => {
    while (!stopping.signal.aborted) {
      const began = performance.now();
      try {
        const { rows } = await pool.query<{ runs: number }>("select runs from app.schedule_tick()");
        ticking.ticks += 1;
        ticking.runs += rows[0]?.runs ?? 0;
        ticking.longestMs = Math.max(ticking.longestMs, performance.now() - began);
      } catch (error) {
        tally.met("schedule_tick", error);
      }
      await sleep(PAUSE_MS * Math.random(), undefined, { signal: stopping.signal }).catch(() => {});
    }
  };
  const all = Promise.all(Array.from({ length: SCHEDULERS }, tick));
  return ticking;
}
