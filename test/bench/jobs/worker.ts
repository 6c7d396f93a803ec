// A worker in a process of its own: ours, or another queue's. The bench asks it how far it is.
import { Logger as QueueLogger, run as runQueue } from "graphile-worker";
import pg from "pg";
import { createPool, type Db } from "../../../src/db.ts";
import { jobClaim, jobCompleteMany, workerBeat } from "../../../src/jobs.ts";
import { createLog } from "../../../src/log.ts";
import type { Observe } from "../../../src/runs.ts";
import { AnyInput, type Run, task } from "../../../src/tasks.ts";
import { startWorker } from "../../../src/worker.ts";
import { TEST_TICKET_KEY } from "../../support/constants.ts";
import { KIND, openBoss } from "./scene.ts";
import { type Calls, clock, type Order, type Reading, type Word, type Work } from "./words.ts";

let done = 0;
let lastAt = 0;

function ended(): void {
  done += 1;
  lastAt = clock();
}

const calls: Calls = { take: 0, claim: 0, end: 0, drop: 0 };

/** What is in the text of each of these calls, and in that of no other. */
const MARKS: Record<keyof Calls, string> = {
  take: "with j_raw as",
  claim: "app.job_claim(",
  end: "app.job_complete_many(",
  drop: "delete from",
};

/** Counts the calls where all of them go: what is in one of them together is known nowhere else. */
function countCalls(): void {
  const { prototype } = pg.Client as unknown as { prototype: { query(...given: unknown[]): unknown } };
  const { query } = prototype;
  prototype.query = function counting(...given: unknown[]) {
    const [first] = given as [string | { text?: string }];
    const text = typeof first === "string" ? first : (first.text ?? "");
    for (const call of Object.keys(calls) as (keyof Calls)[]) {
      if (text.includes(MARKS[call])) calls[call] += 1;
    }
    return query.apply(this, given);
  };
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

/** A bench of failures measures nothing: the first error ends it. */
function said(line: string): void {
  console.error(line.trimEnd());
  if (line.includes('"level":"error"') || line.includes('"level":"fatal"')) process.exit(1);
}

/** Hears of every end of a run; what else a worker tells goes unheard, whatever it is. */
const heard = new Proxy({} as Observe, {
  get: (_, told) => (told === "jobSeconds" ? onEnd : () => {}),
});

const onEnd: Observe["jobSeconds"] = (_kind, _seconds, outcome) => {
  if (outcome !== "completed") throw new Error(`a run was ${outcome}`);
  ended();
};

/** The program that runs. */
async function ours({ url, concurrency, tells }: Order): Promise<void> {
  const db = dbOf(url, concurrency);
  await startWorker({
    workerUrl: url,
    db,
    work: db, // its task asks the database for nothing
    tasks: [task({ kind: KIND, input: AnyInput, run: async (run: Run) => tells && tellStart(run.runId) })],
    log: createLog({ level: "warn", destination: { write: said } }),
    observe: heard,
    concurrency,
    tickEveryMs: 3_600_000,
    onFatal: (error) => {
      throw error;
    },
  });
}

/** The same queue and the same SQL, but nothing goes together: a claim and an end for each run. */
async function single({ url, concurrency }: Order): Promise<void> {
  const db = dbOf(withRowSecurity(url), concurrency);
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
    const [completed] = await jobCompleteMany(db, [
      { tenantId, runId, attempt: claimed.attempt, result: null },
    ]);
    if (completed === undefined) throw new Error("a run was not completed");
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
      if (level !== "error") return;
      console.error("graphile-worker:", message);
      process.exit(1);
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
  const { rss, heapUsed } = process.memoryUsage();
  return {
    done,
    lastAt,
    calls: { ...calls },
    cpuSeconds: (user + system) / 1e6,
    rssBytes: rss,
    heapBytes: heapUsed,
    isOver: false,
  };
}

process.on("message", () => tell({ reading: read() }));
process.on("disconnect", () => process.exit());
countCalls();
const order: Order = JSON.parse(process.argv[2]!);
await WORKS[order.work](order);
tell({ ready: true });
