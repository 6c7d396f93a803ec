// A worker process of chaos: the worker of the product with the tasks of kinds.ts, and steps at which it may be killed.
import pino from "pino";
import { createPool, type Db } from "../../src/db.ts";
import { startWorker } from "../../src/worker.ts";
import { chaosTasks } from "./kinds.ts";
import { arm, type Step, watchStatements } from "./steps.ts";

type Settings = {
  workerUrl: string;
  serviceUrl: string;
  kid: number;
  secret: string;
  concurrency: number;
  drainMs: number;
  logLevel: string;
  step?: Step;
};

const settings: Settings = JSON.parse(process.env["CHAOS_WORKER"] ?? "");
const log = pino({ level: settings.logLevel }, pino.destination({ dest: 1, sync: true }));
const ticketKey = { kid: settings.kid, secret: Buffer.from(settings.secret, "base64") };
const open = (connectionString: string, max: number): Db => ({
  pool: createPool({ connectionString, application_name: "chaos_worker", max }),
  ticketKey,
});

watchStatements();
arm(settings.step);
process.on("message", ({ arm: step }: { arm: Step }) => arm(step));
const onDisconnect = () => process.exit(3); // whoever started it is gone
process.on("disconnect", onDisconnect);
process.channel?.unref();

const db = open(settings.workerUrl, settings.concurrency);
const work = open(settings.serviceUrl, settings.concurrency);
const worker = await startWorker({
  workerUrl: settings.workerUrl,
  db,
  work,
  version: "chaos",
  tasks: chaosTasks(),
  log,
  concurrency: settings.concurrency,
  drainMs: settings.drainMs,
  leakedHandlersMax: 5,
  tickEveryMs: 5_000,
  onFatal: () => process.exit(1),
});
process.send?.("ready");

process.once("SIGTERM", async () => {
  process.on("SIGTERM", () => worker.hasten());
  await worker.stop();
  await Promise.all([db.pool.end(), work.pool.end()]);
  process.off("disconnect", onDisconnect);
  process.disconnect?.();
  // Nothing more is done here: that the process ends shows that nothing was left running.
});
