// The processes that work: workers of ours and of others, and pgbench.
import { type ChildProcess, fork, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { withClient } from "../../../src/migrate.ts";
import { TEST_PASSWORD } from "../../support/constants.ts";
import { cpuOfProcess } from "../server.ts";
import { BENCH_WORKER, type Scene } from "./scene.ts";
import { clock, type Order, type Reading, type Word } from "./words.ts";

/** How long a worker may take to begin, in ms. */
const START_MS = 30_000;

/** A process that works until it is ended. */
export type Process = { read(): Promise<Reading>; end(): Promise<void> };

/** A worker; `onStart` is told of each run that begins, when the order says so. */
export async function startProcess(
  order: Order,
  onStart: (run: string, at: number) => void = () => {},
): Promise<Process> {
  const child = fork(join(import.meta.dirname, "worker.ts"), [JSON.stringify(order)], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const ready = Promise.withResolvers<void>();
  const readings: PromiseWithResolvers<Reading>[] = [];
  let gone: Error | undefined;
  child.on("message", (word: Word) => {
    if ("ready" in word) ready.resolve();
    else if ("started" in word) onStart(word.started, word.at);
    else readings.shift()?.resolve(word.reading);
  });
  child.once("exit", (code) => {
    gone = new Error(`${order.work} ended by itself, with ${code}`);
    for (const waiting of [ready, ...readings]) waiting.reject(gone);
  });
  const late = setTimeout(() => ready.reject(new Error(`${order.work} does not begin`)), START_MS);
  await ready.promise.finally(() => clearTimeout(late));
  return {
    read: () => {
      const reading = Promise.withResolvers<Reading>();
      if (gone !== undefined) reading.reject(gone);
      else {
        readings.push(reading);
        child.send("read", (error) => error && reading.reject(gone ?? error));
      }
      return reading.promise;
    },
    end: () => ended(child),
  };
}

/** Whether there is a pgbench on this machine. */
export async function hasPgbench(): Promise<boolean> {
  const child = spawn("pgbench", ["--version"], { stdio: "ignore" });
  return new Promise((resolve) => {
    child.once("error", () => resolve(false));
    child.once("exit", (code) => resolve(code === 0));
  });
}

/** How many runs go together in each of the statements that the worker sends. */
export type Chunks = { claim: number; end: number };

/**
 * Clients of pgbench that send what the worker sends, one statement after the other: tokens are taken from the queue, as
 * graphile-worker does it, their runs claimed, completed, and the tokens removed.
 */
export async function startPgbench(scene: Scene, clients: number, chunks: Chunks): Promise<Process> {
  const folder = await mkdtemp(join(tmpdir(), "holdfast-pgbench-"));
  const file = join(folder, "chunk.sql");
  await writeFile(file, chunkScript(chunks));
  const { host, port } = scene.server;
  const args = ["--no-vacuum", "--protocol=prepared", `--client=${clients}`, "--jobs=1", "--time=3600"];
  const child = spawn(
    "pgbench",
    [
      ...args,
      `--define=tasks={${await taskOfTokens(scene)}}`,
      `--file=${file}`,
      `--host=${host}`,
      `--port=${port}`,
      "--username=holdfast_worker",
      scene.ours.database,
    ],
    {
      env: { ...process.env, PGPASSWORD: TEST_PASSWORD, PGOPTIONS: "-c row_security=on" },
      stdio: ["ignore", "ignore", "pipe"],
    },
  );
  let said = "";
  child.stderr?.on("data", (data: Buffer) => {
    said += data.toString();
  });
  let done = 0;
  let lastAt = clock();
  let cpuSeconds = Number.NaN;
  return {
    read: async () => {
      // When the tokens run out, a client ends by itself: it has no array to claim.
      const error = /ERROR:.*/.exec(said)?.[0];
      if (error !== undefined && !error.includes("malformed array")) throw new Error(`pgbench: ${error}`);
      const isOver = child.exitCode !== null;
      const now = (await chunksEnded(scene)) * chunks.claim;
      if (now > done) lastAt = clock();
      done = now;
      cpuSeconds = cpuOfProcess(child.pid ?? 0) ?? cpuSeconds;
      return {
        done,
        lastAt,
        calls: undefined,
        cpuSeconds,
        rssBytes: Number.NaN,
        heapBytes: Number.NaN,
        isOver,
      };
    },
    end: async () => {
      await ended(child);
      await rm(folder, { recursive: true });
    },
  };
}

/** graphile-worker 0.18.0, dist/sql/getJobs.js and completeJobs.js, with the same names. */
function chunkScript({ claim, end }: Chunks): string {
  const ends = Math.max(1, Math.round(claim / end));
  const cuts = Array.from({ length: ends + 1 }, (_, at) => Math.round((claim * at) / ends));
  return [
    `with j_raw as (
       select jobs.job_queue_id, jobs.priority, jobs.run_at, jobs.id
       from graphile_worker._private_jobs as jobs
       where jobs.is_available = true
       and run_at <= now()
       and task_id = any(:tasks::int[])
       and (
         jobs.job_queue_id is null
         or
         jobs.job_queue_id in (
           select id
           from graphile_worker._private_job_queues as job_queues
           where job_queues.is_available = true
           for update
           skip locked
         )
       )
       order by priority asc, run_at asc
       limit ${claim}
       for update
       skip locked
     ), j as (
       select distinct on (job_queue_id, case when job_queue_id is null then id end)
         job_queue_id, priority, run_at, id
       from j_raw
       order by job_queue_id, case when job_queue_id is null then id end, priority asc, run_at asc
     ), q as (
       update graphile_worker._private_job_queues as job_queues
       set locked_by = '${BENCH_WORKER}'::text, locked_at = now()
       from j
       where job_queues.id = j.job_queue_id
     ), taken as (
       update graphile_worker._private_jobs as jobs
       set attempts = jobs.attempts + 1, locked_by = '${BENCH_WORKER}'::text, locked_at = now()
       from j
       where jobs.id = j.id
       returning jobs.*
     )
     select array_agg(id) as tokens, array_agg(payload ->> 'tenant_id') as tenants,
            array_agg(payload ->> 'run_id') as runs
     from taken \\gset`,
    `select array_agg(tenant_id) as tenants, array_agg(run_id) as runs, array_agg(attempt) as attempts
     from app.job_claim(worker => '${BENCH_WORKER}', tenant_ids => :tenants::uuid[], run_ids => :runs::uuid[]) \\gset`,
    ...cuts.slice(1).map((to, at) => {
      const slice = `[${cuts[at]! + 1} : ${to}]`;
      return `select count(run_id) as ended${at === ends - 1 ? ", nextval('bench.chunks_ended') as chunk" : ""}
              from app.job_complete_many(tenant_ids => (:tenants::uuid[])${slice}, run_ids => (:runs::uuid[])${slice},
                attempts => (:attempts::int[])${slice}, results => array_fill('null'::jsonb, array[${to - cuts[at]!}])) \\gset`;
    }),
    "delete from graphile_worker._private_jobs as jobs using unnest(:tokens::bigint[]) n(n) where id = n;",
    "",
  ].join("\n");
}

/** graphile-worker looks it up once, too. */
async function taskOfTokens(scene: Scene): Promise<number> {
  return withClient(scene.ours.superuser, async (client) => {
    const { rows } = await client.query<{ id: number }>(
      "select id from graphile_worker._private_tasks where identifier = 'run'",
    );
    return rows[0]!.id;
  });
}

async function chunksEnded(scene: Scene): Promise<number> {
  return withClient(scene.ours.superuser, async (client) => {
    const { rows } = await client.query<{ ended: number }>(
      "select case when is_called then last_value else 0 end::integer as ended from bench.chunks_ended",
    );
    return rows[0]!.ended;
  });
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "exit");
}
