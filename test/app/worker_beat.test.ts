// sql/app/worker_beat.sql, worker_stop.sql and workers_reap.sql: which workers live, what each must end, and what a dead one
// gives back.
import { randomUUID } from "node:crypto";
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import { claimsOf, type Named } from "../support/claims.ts";
import { besides, type Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const queue = claimsOf(database);
let tenantId = "";
let other = "";
let kind = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  ({ tenantId: other } = await database.addTenant());
  kind = await queue.kind({ timeoutSeconds: 60 });
});
beforeEach(async () => {
  await queue.sql("delete from app.job_workers");
  await queue.sql("truncate graphile_worker._private_jobs");
});

type Held = Named & { attempt: number };
const beat = async (worker: string, held: Held[] = []): Promise<Row[]> => {
  const { rows } = await database.worker.pool.query(
    "select * from app.worker_beat($1, $2, 'host', 42, '1.2', '{a,b}', 4, $3, $4, $5)",
    [
      worker,
      `pool of ${worker}`,
      held.map((h) => h.tenantId),
      held.map((h) => h.runId),
      held.map((h) => h.attempt),
    ],
  );
  return rows;
};
const stop = async (worker: string): Promise<number> =>
  (await database.worker.pool.query("select app.worker_stop($1) as n", [worker])).rows[0].n;
const reap = async (): Promise<Row[]> =>
  (await database.worker.pool.query("select * from app.workers_reap() order by worker")).rows;
const workers = () => queue.sql("select * from app.job_workers order by worker");
const unseen = (worker: string, seconds: number) =>
  queue.sql("update app.job_workers set seen_at = now() - make_interval(secs => $2) where worker = $1", [
    worker,
    seconds,
  ]);
const running = async (whose: string): Promise<Held> => {
  const run = await queue.add(whose, kind);
  expect(await queue.claim([run])).toHaveLength(1);
  return { ...run, attempt: 1 };
};
/** Tokens that a pool of graphile-worker holds, of runs that are not there. */
const hold = async (pool: string, count: number): Promise<void> => {
  await queue.sql("select graphile_worker.add_job('run', '{}') from generate_series(1, $1)", [count]);
  await queue.sql(
    "update graphile_worker._private_jobs set locked_by = $1, locked_at = now() where locked_by is null and key is null",
    [pool],
  );
};
const heldBy = async (pool: string) =>
  (
    await queue.sql("select count(*)::int as n from graphile_worker._private_jobs where locked_by = $1", [
      pool,
    ])
  )[0]!["n"];

describe("worker_beat", () => {
  test("the first one registers a worker, the next ones say that it lives and what it runs", async () => {
    expect(await beat("w")).toEqual([]);
    const [first] = await workers();
    expect(first).toMatchObject({
      worker: "w",
      pool: "pool of w",
      host: "host",
      pid: 42,
      version: "1.2",
      kinds: ["a", "b"],
      concurrency: 4,
      running: 0,
    });
    expect(await beat("w", [await running(tenantId), await running(other)])).toEqual([]);
    const [second] = await workers();
    expect(second).toMatchObject({ running: 2, started_at: first!["started_at"] });
    expect(second!["seen_at"].getTime()).toBeGreaterThan(first!["seen_at"].getTime());
    await beat("w2");
    expect(await workers()).toHaveLength(2);
  });

  test("it extends the lease of each attempt to 20 s, of whatever tenant, and within the time of its kind", async () => {
    const [one, two, late] = [await running(tenantId), await running(other), await running(other)];
    await queue.sql("update app.job_runs set lease_until = now() - interval '1 second' where id = any ($1)", [
      [one.runId, two.runId, late.runId],
    ]);
    await queue.sql("update app.job_runs set started_at = now() - interval '75 seconds' where id = $1", [
      late.runId,
    ]);
    expect(await beat("w", [one, two, late])).toEqual([]);
    for (const [held, seconds] of [
      [one, 20],
      [two, 20],
      [late, 5],
    ] as const) {
      const { lease_until: lease } = await queue.row(held);
      expect(Math.abs(lease.getTime() - Date.now() - seconds * 1_000)).toBeLessThan(2_000);
    }
  });

  test("it answers what the worker must end: what went on without it is fenced, what was cancelled is cancelled", async () => {
    const [good, stale, ended, cancelled, both] = [
      await running(tenantId),
      await running(tenantId),
      await running(tenantId),
      await running(other),
      await running(other),
    ];
    await queue.fail(stale, "shutdown");
    await queue.claim([stale], "another");
    await queue.complete(ended);
    const ask = "update app.job_runs set cancel_requested_at = now() where id = $1";
    await queue.sql(ask, [cancelled.runId]);
    await queue.sql(ask, [both.runId]);
    const absent = { tenantId, runId: randomUUID(), attempt: 1 };
    const foreign = { ...good, tenantId: other };
    const before = await queue.row(stale);
    const said = await beat("w", [good, stale, ended, cancelled, { ...both, attempt: 7 }, absent, foreign]);
    expect(new Set(said.map((row) => `${row["run_id"]} ${row["attempt"]} ${row["verdict"]}`))).toEqual(
      new Set([
        `${stale.runId} 1 fenced`,
        `${ended.runId} 1 fenced`,
        `${cancelled.runId} 1 cancelled`,
        `${both.runId} 7 fenced`,
        `${absent.runId} 1 fenced`,
        `${foreign.runId} 1 fenced`,
      ]),
    );
    expect(await queue.row(stale)).toEqual(before);
  });

  test("it waits for no run that something else is at", async () => {
    const [free, busy] = [await running(tenantId), await running(tenantId)];
    await queue.sql("update app.job_runs set lease_until = now() + interval '1 second' where id = any ($1)", [
      [free.runId, busy.runId],
    ]);
    const before = await queue.row(busy);
    const ids = `array['${tenantId}','${tenantId}']::uuid[], array['${busy.runId}','${free.runId}']::uuid[], '{1,1}'`;
    const held = { text: "select from app.job_runs where id = $1", values: [busy.runId] };
    const text = `select verdict from app.worker_beat('w', 'p', 'h', 1, '1', '{a}', 4, ${ids})`;
    expect(await besides(database, held, database.worker, text)).toEqual([]);
    expect((await queue.row(free))["lease_until"].getTime()).toBeGreaterThan(Date.now() + 15_000);
    expect(await queue.row(busy)).toEqual(before);
  });
});

describe("worker_stop", () => {
  test("it is listed no more, and what it held of the queue is free; a second time there is nothing to do", async () => {
    await beat("w");
    await beat("w2");
    await hold("pool of w", 3);
    await hold("pool of w2", 2);
    expect(await stop("w")).toBe(3);
    expect((await workers()).map((row) => row["worker"])).toEqual(["w2"]);
    expect([await heldBy("pool of w"), await heldBy("pool of w2")]).toEqual([0, 2]);
    expect(await stop("w")).toBe(0);
    expect(await stop("nobody")).toBe(0);
    await stop("w2");
  });
});

describe("workers_reap", () => {
  test("who was not heard of for 20 s is removed, and gives back what it held", async () => {
    for (const worker of ["dead", "dying", "well"]) await beat(worker);
    await hold("pool of dead", 2);
    await hold("pool of dying", 1);
    await unseen("dead", 21);
    await unseen("dying", 18);
    expect(await reap()).toEqual([{ worker: "dead", host: "host", pid: 42, tokens: 2 }]);
    expect((await workers()).map((row) => row["worker"])).toEqual(["dying", "well"]);
    expect([await heldBy("pool of dead"), await heldBy("pool of dying")]).toEqual([0, 1]);
    expect(await reap()).toEqual([]);
    await beat("dead");
    expect(await workers()).toHaveLength(3);
    await stop("dying");
  });

  test("eight at once tell of each once, and one that beats at that moment is passed over", async () => {
    for (let n = 0; n < 12; n += 1) {
      await beat(`w${n}`);
      await unseen(`w${n}`, 30);
    }
    const held = { text: "select from app.job_workers where worker = $1", values: ["w3"] };
    const text = "select worker from app.workers_reap()";
    const first = await besides(database, held, database.worker, text);
    expect(first).toHaveLength(11);
    for (let n = 0; n < 12; n += 1) {
      await beat(`w${n}`);
      await unseen(`w${n}`, 30);
    }
    const told = (await Promise.all(Array.from({ length: 8 }, reap))).flat().map((row) => row["worker"]);
    expect(told.sort()).toEqual(Array.from({ length: 12 }, (_, n) => `w${n}`).sort());
  });

  test("its runs come back by their leases, not by it", async () => {
    const held = await running(tenantId);
    await beat("w1", [held]);
    await unseen("w1", 30);
    await reap();
    expect(await queue.row(held)).toMatchObject({ state: "RUNNING", worker: "w1" });
  });
});

test("they refuse the service; people may remove the dead", async () => {
  for (const text of [
    "select app.worker_beat('w', 'p', 'h', 1, '1', '{}', 1, '{}', '{}', '{}')",
    "select app.worker_stop('w')",
    "select app.workers_reap()",
  ])
    await expect(database.service.pool.query(text)).rejects.toMatchObject({ code: "42501" });
  await database.ops.query("select app.workers_reap()");
});
