// sql/app/job_reap.sql: runs whose worker is gone, and tokens that were lost, come back.
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import { besides, type Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
let tenantId = "";

const rows = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows as Row[];

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await runs.addKind("plain");
});

beforeEach(async () => {
  // What another test left waiting would be counted here.
  await rows("update app.job_runs set available_at = 'infinity' where state in ('PENDING', 'FAILED')");
  await rows("truncate graphile_worker._private_jobs");
});

/** Makes a run look as if it had waited for its token since then. */
async function waiting(runId: string, seconds: number): Promise<void> {
  await rows(
    `update app.job_runs set available_at = clock_timestamp() - make_interval(secs => $2),
       token_at = clock_timestamp() - make_interval(secs => $2) where id = $1`,
    [runId, seconds],
  );
}

describe("a lost worker", () => {
  test("its run is failed, with a token at once; that its attempt crashed does not count as a failure", async () => {
    const runId = await runs.running(tenantId, "plain");
    await runs.loseWorker(runId);
    expect(await runs.reap()).toBe(1);
    expect(await runs.row(runId)).toMatchObject({
      state: "FAILED",
      error_code: "worker_lost",
      crash_count: 1,
      failure_count: 0,
      lease_until: null,
      finished_at: null,
    });
    expect(await runs.tokens(runId)).toMatchObject([
      { key: `run:${runId}:1`, payload: { tenant_id: tenantId, run_id: runId } },
    ]);
    expect(await runs.claim(tenantId, runId, "w2")).toMatchObject({ attempt: 2 });
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING", "FAILED", "RUNNING"]);
  });

  test("the audit trail says that it was not the lost worker who failed the run", async () => {
    const runId = await runs.running(tenantId, "plain");
    await runs.loseWorker(runId);
    await runs.reap();
    const actors = await rows("select actor from app.job_run_events where run_id = $1 order by created_at", [
      runId,
    ]);
    expect(actors.slice(1).map((row) => row["actor"])).toEqual(["w1", "holdfast_worker"]);
  });

  test("one whose lease still stands is left", async () => {
    const runId = await runs.running(tenantId, "plain");
    expect(await runs.reap()).toBe(0);
    expect(await runs.row(runId)).toMatchObject({ state: "RUNNING", crash_count: 0 });
  });

  test("a run that kills three workers is poison: a dead letter, told of, and no token", async () => {
    const runId = await runs.running(tenantId, "plain");
    for (const crash of [1, 2]) {
      await runs.loseWorker(runId);
      expect(await runs.reap()).toBe(1);
      expect(await runs.claim(tenantId, runId)).toMatchObject({ attempt: crash + 1 });
    }
    await rows("truncate graphile_worker._private_jobs");
    await runs.loseWorker(runId);
    expect(await runs.reap()).toBe(0);
    const row = await runs.row(runId);
    expect(row).toMatchObject({
      state: "DEAD_LETTER",
      error_code: "poison",
      crash_count: 3,
      lease_until: null,
    });
    expect(row["finished_at"]).toBeInstanceOf(Date);
    expect(await runs.tokens(runId)).toEqual([]);
    expect(await rows("select type, data from app.events where subject_id = $1", [runId])).toEqual([
      { type: "run.dead_letter", data: { error_code: "poison" } },
    ]);
    expect(await runs.claim(tenantId, runId)).toBeUndefined();
    expect(await runs.history(runId)).toEqual([
      "PENDING",
      "RUNNING",
      "FAILED",
      "RUNNING",
      "FAILED",
      "RUNNING",
      "DEAD_LETTER",
    ]);
  });

  test("of every tenant, max_rows at a time", async () => {
    const other = await database.addTenant();
    const lost = [
      await runs.running(tenantId, "plain"),
      await runs.running(other.tenantId, "plain"),
      await runs.running(tenantId, "plain"),
    ];
    for (const runId of lost) await runs.loseWorker(runId);
    expect(await runs.reap(2)).toBe(2);
    expect(await runs.reap(2)).toBe(1);
    for (const runId of lost)
      expect(await runs.row(runId)).toMatchObject({ state: "FAILED", crash_count: 1 });
  });

  test("eight reapers at once bring each back once", async () => {
    const lost = await Promise.all(Array.from({ length: 40 }, () => runs.running(tenantId, "plain")));
    for (const runId of lost) await runs.loseWorker(runId);
    const counts = await Promise.all(Array.from({ length: 8 }, () => runs.reap(15)));
    expect(counts.reduce((sum, count) => sum + count, await runs.reap())).toBe(40);
    const [sums] = await rows(
      "select sum(crash_count)::int as crashes, count(*) filter (where state = 'FAILED')::int as failed from app.job_runs where id = any ($1)",
      [lost],
    );
    expect(sums).toEqual({ crashes: 40, failed: 40 });
    expect(await rows("select from graphile_worker._private_jobs")).toHaveLength(40);
  });
});

test("runs that something else is at are passed over, not waited for", async () => {
  const [lost, busy] = [await runs.running(tenantId, "plain"), await runs.running(tenantId, "plain")];
  const [late, busyToo] = [await runs.add(tenantId, "plain"), await runs.add(tenantId, "plain")];
  for (const runId of [lost, busy]) await runs.loseWorker(runId);
  for (const runId of [late, busyToo]) await waiting(runId, 20);
  const held = { text: "select from app.job_runs where id = any ($1)", values: [[busy, busyToo]] };
  expect(await besides(database, held, database.worker, "select app.job_reap() as n")).toEqual([{ n: 2 }]);
  expect([(await runs.row(lost))["state"], (await runs.row(busy))["state"]]).toEqual(["FAILED", "RUNNING"]);
  expect(await runs.reap()).toBe(2);
});

describe("a lost token", () => {
  test("of a run that has waited 15 s is queued again", async () => {
    const runId = await runs.add(tenantId, "plain"); // and no token
    await waiting(runId, 10);
    expect(await runs.reap()).toBe(0);
    expect(await runs.tokens(runId)).toEqual([]);
    await waiting(runId, 20);
    expect(await runs.reap()).toBe(1);
    expect(await runs.tokens(runId)).toMatchObject([
      { key: `run:${runId}:0`, payload: { tenant_id: tenantId, run_id: runId } },
    ]);
    expect(await runs.row(runId)).toMatchObject({ state: "PENDING", attempt: 0, crash_count: 0 });
  });

  test("it works twice: not again within 15 s, and a token that is still there replaces itself", async () => {
    const runId = await runs.add(tenantId, "plain");
    await waiting(runId, 20);
    await runs.reap();
    expect(await runs.reap()).toBe(0);
    await waiting(runId, 20);
    expect(await runs.reap()).toBe(1);
    expect(await runs.tokens(runId)).toHaveLength(1);
  });

  test("a token that graphile-worker gave up is as good as lost", async () => {
    const runId = await runs.add(tenantId, "plain");
    await waiting(runId, 20);
    await runs.reap();
    await rows(
      "update graphile_worker._private_jobs set attempts = max_attempts, last_error = 'no connection'",
    );
    await waiting(runId, 20);
    await runs.reap();
    const fetchable = (await runs.tokens(runId)).filter((token) => token["attempts"] < token["max_attempts"]);
    expect(fetchable).toMatchObject([{ key: `run:${runId}:0` }]);
  });

  test("the whole queue is lost: every waiting run gets its token, a running one none", async () => {
    const pending = await Promise.all(Array.from({ length: 5 }, () => runs.add(tenantId, "plain")));
    const failed = await runs.running(tenantId, "plain");
    await runs.fail(tenantId, failed, 1);
    const running = await runs.running(tenantId, "plain");
    await rows("truncate graphile_worker._private_jobs");
    for (const runId of [...pending, failed]) await waiting(runId, 20);
    expect(await runs.reap()).toBe(6);
    const keys = (await rows("select key from graphile_worker._private_jobs")).map((row) => row["key"]);
    expect(keys.sort()).toEqual([...pending.map((runId) => `run:${runId}:0`), `run:${failed}:1`].sort());
    await runs.complete(tenantId, running, 1, {});
  });

  test("a tenant that is suspended gets none until it is not", async () => {
    const suspended = await database.addTenant();
    const runId = await runs.add(suspended.tenantId, "plain");
    await waiting(runId, 20);
    const setStatus = (status: string) =>
      rows("update app.tenants set status = $2 where tenant_id = $1", [suspended.tenantId, status]);
    await setStatus("SUSPENDED");
    expect(await runs.reap()).toBe(0); // its worker would be refused
    await setStatus("ACTIVE");
    expect(await runs.reap()).toBe(1);
  });

  test("what waits for its time is not repaired before it", async () => {
    const runId = await runs.running(tenantId, "plain");
    await runs.fail(tenantId, runId, 1);
    await rows(
      "update app.job_runs set available_at = clock_timestamp() + interval '1 hour', token_at = clock_timestamp() - interval '1 hour' where id = $1",
      [runId],
    );
    expect(await runs.reap()).toBe(0);
  });
});

test("it refuses the service", async () => {
  await expect(database.service.pool.query("select app.job_reap()")).rejects.toMatchObject({ code: "42501" });
  await database.ops.query("select app.job_reap()");
});
