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
  const readings: ((reading: Reading) => void)[] = [];
  child.on("message", (word: Word) => {
    if ("ready" in word) ready.resolve();
    else if ("started" in word) onStart(word.started, word.at);
    else readings.shift()?.(word.reading);
  });
  child.once("exit", (code) => ready.reject(new Error(`${order.work} ended by itself, with ${code}`)));
  const late = setTimeout(() => ready.reject(new Error(`${order.work} does not begin`)), START_MS);
  await ready.promise.finally(() => clearTimeout(late));
  return {
    read: () =>
      new Promise((resolve) => {
        readings.push(resolve);
        child.send("read");
      }),
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

/**
 * Clients of pgbench, each of which claims a chunk in one statement and completes its runs in one each. Where a chunk
 * is fetched, a token of the queue would be: the row of bench.chunks stands for it.
 */
export async function startPgbench(scene: Scene, clients: number, chunk: number): Promise<Process> {
  const folder = await mkdtemp(join(tmpdir(), "holdfast-pgbench-"));
  const file = join(folder, "chunk.sql");
  await writeFile(file, chunkScript(chunk));
  const { host, port } = scene.server;
  const args = ["--no-vacuum", "--protocol=prepared", `--client=${clients}`, "--jobs=1", "--time=3600"];
  const child = spawn(
    "pgbench",
    [
      ...args,
      `--file=${file}`,
      `--host=${host}`,
      `--port=${port}`,
      "--username=holdfast_worker",
      scene.ours.database,
    ],
    { env: { ...process.env, PGPASSWORD: TEST_PASSWORD }, stdio: ["ignore", "ignore", "pipe"] },
  );
  let said = "";
  child.stderr?.on("data", (data: Buffer) => {
    said += data.toString();
  });
  return {
    read: async () => ({
      // A chunk counts when it is taken: on the average, its runs are half done.
      done: await chunksTaken(scene).then((taken) => taken * chunk),
      lastAt: clock(),
      cpuSeconds: cpuOfProcess(child.pid ?? 0) ?? Number.NaN,
      rssBytes: Number.NaN,
    }),
    end: async () => {
      // When chunks run out, it ends by itself with "expected one row, got 0".
      if (/ERROR/.test(said)) console.error("pgbench:", said.slice(0, 1000));
      await ended(child);
      await rm(folder, { recursive: true });
    },
  };
}

function chunkScript(chunk: number): string {
  const places = Array.from({ length: chunk }, (_, at) => at + 1);
  const each = places.map(
    (at) => `tenant_ids[${at}] as t${at}, run_ids[${at}] as r${at}, tickets[${at}] as k${at}`,
  );
  return [
    `select tenant_ids as ts, run_ids as rs, ${each.join(", ")} from bench.chunks where n = (select nextval('bench.chunk')) \\gset`,
    `select count(*) as claimed from app.job_claim('${BENCH_WORKER}', :ts, :rs) \\gset`,
    ...places.map((at) => `select app.job_complete(:t${at}, :k${at}, :r${at}, 1, 'null');`),
    "",
  ].join("\n");
}

async function chunksTaken(scene: Scene): Promise<number> {
  return withClient(scene.ours.superuser, async (client) => {
    const { rows } = await client.query<{ taken: number }>(
      `select case when s.is_called then least(s.last_value + 1, c.chunks) else 0 end::integer as taken
       from bench.chunk as s, (select count(*) as chunks from bench.chunks) as c`,
    );
    return rows[0]!.taken;
  });
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "exit");
}
