// A worker in a process of its own, for the tests that end one by a signal. Its log is on stdout.
import { setTimeout as sleep } from "node:timers/promises";
import pino from "pino";
import { createPool } from "../../src/db.ts";
import { unsettledHandlers } from "../../src/runs.ts";
import { AnyInput, task } from "../../src/tasks.ts";
import { startWorker } from "../../src/worker.ts";

const { workerUrl, kid, secret, drainMs } = JSON.parse(process.env["TEST_WORKER"] ?? "");
const key = { kid, secret: Buffer.from(secret, "base64") };
const pool = createPool({ connectionString: workerUrl, application_name: "test_worker" });
const log = pino({ level: "debug" }, pino.destination({ dest: 1, sync: true }));

const told = Promise.withResolvers<void>();
process.once("SIGTERM", () => told.resolve());

const worker = await startWorker({
  workerUrl,
  db: { pool, ticketKey: key },
  work: { pool, ticketKey: key }, // its one task asks the database for nothing
  log,
  concurrency: 2,
  drainMs,
  tasks: [
    task({
      kind: "nap",
      input: AnyInput,
      run: async ({ input, signal }) => {
        await sleep(Number(input["ms"]), undefined, input["deed"] === "ignore" ? {} : { signal });
        return { pid: process.pid };
      },
    }),
  ],
  onFatal: () => process.exit(1),
});

await told.promise;
process.on("SIGTERM", worker.hasten);
await worker.stop();
await pool.end();
process.removeAllListeners("SIGTERM");
// That the process ends now shows that nothing was left running, but for a handler that ignores its signal.
if (unsettledHandlers() > 0) process.exit();
