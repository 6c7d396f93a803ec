// A worker in a process of its own: ours, or another queue's. The bench asks it how far it is.
import { Logger as QueueLogger, run as runQueue } from "graphile-worker";
import { createPool, type Db } from "../../../src/db.ts";
import { jobClaim, jobComplete, workerBeat } from "../../../src/jobs.ts";
import { createLog } from "../../../src/log.ts";
import { AnyInput, type Run, task } from "../../../src/tasks.ts";
import { startWorker } from "../../../src/worker.ts";
import { TEST_TICKET_KEY } from "../../support/constants.ts";
import { KIND, openBoss } from "./scene.ts";
import { clock, type Order, type Reading, type Word, type Work } from "./words.ts";

let done = 0;
let lastAt = 0;

function ended(): void {
  done += 1;
  lastAt = clock();
}

/** As many as a run needs at once, and a few for the loops. */
const POOL = (concurrency: number) => Math.max(10, concurrency + 2);

const LOCAL_QUEUE = (concurrency: number) => ({
  localQueue: {
    size: concurrency + 1,
    ttl: 60_000,
    refetchDelay: { durationMs: 100, maxAbortThreshold: 1 },
  },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
});

const WORKS: Record<Work, (order: Order) => Promise<void>> = {
  ours,
  single,
  graphile,
  bossWork,
  bossBatches,
  bossLoops,
};

/** The program that runs. */
async function ours({ url, concurrency, tells }: Order): Promise<void> {
  const db = dbOf(url, concurrency);
  await startWorker({
    workerUrl: url,
    db,
    work: db, // its task asks the database for nothing
    tasks: [task({ kind: KIND, input: AnyInput, run: async (run: Run) => tells && tellStart(run.runId) })],
    log: createLog({ level: "warn" }),
    observe: {
      jobSeconds: (_kind, _seconds, outcome) => {
        if (outcome === "completed") ended();
      },
      jobTimeout: () => {},
      jobWait: () => {},
      claimSeconds: () => {},
      commitSeconds: () => {},
      reaped: () => {},
      handlersLeaked: () => {},
      schedulerDeadlock: () => {},
      tick: () => {},
    },
    concurrency,
    tickEveryMs: 3_600_000,
    onFatal: (error) => {
      throw error;
    },
  });
}

/** The same queue and the same SQL, but a claim for each token: one claim, one end. */
async function single({ url, concurrency }: Order): Promise<void> {
  const db = dbOf(url, concurrency);
  const worker = "single";
  const facts = {
    worker,
    pool: worker,
    host: "bench",
    pid: process.pid,
    version: "0",
    kinds: [KIND],
    concurrency,
  };
  await workerBeat(db, facts, []);
  const pgPool = createPool({
    connectionString: withRowSecurity(url),
    max: concurrency + 2,
    application_name: "single",
  });
  await startQueue(pgPool, concurrency, "run", async (payload) => {
    const { tenant_id: tenantId, run_id: runId } = payload as { tenant_id: string; run_id: string };
    const [claimed] = await jobClaim(db, worker, [{ tenantId, runId }]);
    if (claimed === undefined) return;
    await jobComplete(db, tenantId, runId, claimed.attempt, null);
    ended();
  });
}

async function graphile({ url, concurrency }: Order): Promise<void> {
  const pgPool = createPool({ connectionString: url, max: concurrency + 2, application_name: "graphile" });
  await startQueue(pgPool, concurrency, KIND, async () => ended());
}

/** `localConcurrency` workers, each of which fetches and completes one job after the other. */
async function bossWork({ url, concurrency }: Order): Promise<void> {
  const boss = await openBoss(url, POOL(concurrency));
  const options = { localConcurrency: concurrency, pollingIntervalSeconds: 0.5, burstWhenReadyExceeds: 1 };
  await boss.work(KIND, options, async () => ended());
}

/** The same, but each fetches ten, and says of each job of them how it ended. */
async function bossBatches({ url, concurrency }: Order): Promise<void> {
  const boss = await openBoss(url, POOL(concurrency));
  const options = {
    localConcurrency: concurrency,
    batchSize: 10,
    pollingIntervalSeconds: 0.5,
    burstWhenBatchFull: true,
    perJobResults: true,
  } as const;
  await boss.work(KIND, options, async (jobs) => {
    for (const _ of jobs) ended();
    return jobs.map(({ id }) => ({ id, status: "completed" as const }));
  });
}

/** `fetch` of one job and `complete` of it, in as many loops. */
async function bossLoops({ url, concurrency }: Order): Promise<void> {
  const boss = await openBoss(url, POOL(concurrency));
  const loop = async () => {
    for (;;) {
      const [job] = await boss.fetch(KIND, { batchSize: 1 });
      if (job === undefined) return;
      await boss.complete(KIND, job.id);
      ended();
    }
  };
  for (let each = 0; each < concurrency; each += 1) void loop();
}

function dbOf(url: string, concurrency: number): Db {
  const pool = createPool({
    connectionString: url,
    max: POOL(concurrency),
    application_name: "holdfast_worker",
  });
  return { pool, ticketKey: TEST_TICKET_KEY };
}

function withRowSecurity(url: string): string {
  return `${url}?options=${encodeURIComponent("-c row_security=on")}`;
}

async function startQueue(
  pgPool: ReturnType<typeof createPool>,
  concurrency: number,
  name: string,
  work: (payload: unknown) => Promise<void> | void,
): Promise<void> {
  await runQueue({
    pgPool,
    concurrency,
    noHandleSignals: true,
    parsedCronItems: [],
    logger: new QueueLogger(() => (level, message) => {
      if (level === "error") console.error("graphile-worker:", message);
    }),
    taskList: {
      [name]: async (payload) => {
        await work(payload);
      },
    },
    preset: { worker: LOCAL_QUEUE(concurrency) },
  });
}

function tellStart(runId: string): void {
  tell({ started: runId, at: clock() });
}

function tell(word: Word): void {
  process.send?.(word);
}

function read(): Reading {
  const { user, system } = process.cpuUsage();
  return { done, lastAt, cpuSeconds: (user + system) / 1e6, rssBytes: process.memoryUsage.rss() };
}

process.on("message", () => tell({ reading: read() }));
process.on("disconnect", () => process.exit());
const order: Order = JSON.parse(process.argv[2]!);
await WORKS[order.work](order);
tell({ ready: true });
