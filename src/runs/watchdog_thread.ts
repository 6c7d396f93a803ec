// Inside the watchdog's thread. It counts rounds of its own: while the whole process stands still, it does so too.
import { writeSync } from "node:fs";
import { workerData } from "node:worker_threads";
import type { WatchdogFacts } from "./watchdog.ts";

const { counter, afterMs, everyMs } = workerData as WatchdogFacts;
const count = new Int32Array(counter);
const STDERR = 2;
let seen = -1;
let rounds = 0;

setInterval(() => {
  const now = Atomics.load(count, 0);
  rounds = now === seen ? rounds + 1 : 0;
  seen = now;
  if (rounds * everyMs < afterMs) return;
  const line = {
    level: 60,
    time: Date.now(),
    pid: process.pid,
    msg: "main_thread_stuck",
    seconds: afterMs / 1000,
  };
  writeSync(STDERR, `${JSON.stringify(line)}\n`);
  process.kill(process.pid, "SIGKILL");
}, everyMs);
