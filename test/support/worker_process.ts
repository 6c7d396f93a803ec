// A worker in a process of its own, for the tests that end one by a signal. Its log is on stdout.
import { setTimeout as sleep } from "node:timers/promises";
import pino from "pino";
import { createPool } from "../../src/db.ts";
import type { Run } from "../../src/runs.ts";
import { startWorker } from "../../src/worker.ts";

const { workerUrl, kid, secret, drainMs } = JSON.parse(process.env["TEST_WORKER"] ?? "");
const pool = createPool({ connectionString: workerUrl, application_name: "test_worker" });
const log = pino({ level: "debug" }, pino.destination({ dest: 1, sync: true }));

const worker = await startWorker({
  workerUrl,
  db: { pool, ticketKey: { kid, secret: Buffer.from(secret, "base64") } },
  log,
  concurrency: 2,
  drainMs,
  tasks: {
    nap: async ({ input, signal }: Run) => {
      await sleep(Number(input["ms"]), undefined, { signal });
      return { pid: process.pid };
    },
  },
  onFatal: () => process.exit(1),
});

process.once("SIGTERM", async () => {
  await worker.stop();
  await pool.end();
  // Nothing more is done here: that the process ends shows that nothing was left running.
});
