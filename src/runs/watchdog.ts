// The watchdog of a worker: a thread that ends the process when its main thread is busy and hears nothing any more.
import { url as inspectorUrl } from "node:inspector";
import { Worker } from "node:worker_threads";

/** What the thread is told: where the main thread counts, and how long it may count nothing. */
export type WatchdogFacts = { counter: SharedArrayBuffer; afterMs: number; everyMs: number };

const AFTER_MS = 15_000;
const EVERY_MS = 1_000;
const THREAD = new URL("./watchdog_thread.ts", import.meta.url);

/** A watchdog that watches. */
export type Watchdog = { stop(): Promise<unknown> };

/**
 * Ends this process by SIGKILL when the main thread has counted nothing for `afterMs`: a handler in an endless loop hears
 * neither its signal nor a SIGTERM, and no timer of ours would run. The leases bring its runs back. For `npm run worker`,
 * where a supervisor starts it again; `npm start` has a person before it, and a server inside that would be left behind.
 * Under a debugger there is none: what stands at a breakpoint does not hang.
 */
export function startWatchdog(afterMs: number = AFTER_MS, everyMs: number = EVERY_MS): Watchdog {
  if (inspectorUrl() !== undefined) return { stop: () => Promise.resolve() };
  const counter = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
  const count = new Int32Array(counter);
  const timer = setInterval(() => Atomics.add(count, 0, 1), everyMs).unref();
  const workerData: WatchdogFacts = { counter, afterMs, everyMs };
  const thread = new Worker(THREAD, { workerData, env: {}, execArgv: [] });
  thread.unref();
  // Without its watchdog the worker works all the same.
  thread.on("error", () => clearInterval(timer));
  return {
    stop() {
      clearInterval(timer);
      return thread.terminate();
    },
  };
}
