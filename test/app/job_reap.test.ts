// sql/app/job_reap.sql: runs whose worker is gone come back, and it tells which.
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

describe("a lost worker", () => {
  test("its run is failed, with a token at once; that its attempt crashed does not count as a failure", async () => {
    const runId = await runs.running(tenantId, "plain");
    await runs.loseWorker(runId);
    expect(await runs.reap()).toEqual([
      { tenant_id: tenantId, run_id: runId, state: "FAILED", error_code: "worker_lost", kind: "plain" },
    ]);
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
    expect(await runs.reap()).toEqual([]);
    expect(await runs.row(runId)).toMatchObject({ state: "RUNNING", crash_count: 0 });
  });

  test("a run that kills three workers is poison: a dead letter, told of, and no token", async () => {
    const runId = await runs.running(tenantId, "plain");
    for (const crash of [1, 2]) {
      await runs.loseWorker(runId);
      expect(await runs.reap()).toMatchObject([{ run_id: runId, state: "FAILED" }]);
      expect(await runs.claim(tenantId, runId)).toMatchObject({ attempt: crash + 1 });
    }
    await rows("truncate graphile_worker._private_jobs");
    await runs.loseWorker(runId);
    expect(await runs.reap()).toEqual([
      { tenant_id: tenantId, run_id: runId, state: "DEAD_LETTER", error_code: "poison", kind: "plain" },
    ]);
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
      { type: "run.dead_letter", data: { kind: "plain", error_code: "poison" } },
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
    const first = await runs.reap(2);
    expect(first).toHaveLength(2);
    expect(first).toContainEqual(expect.objectContaining({ tenant_id: tenantId, run_id: lost[0] }));
    expect(first).toContainEqual(expect.objectContaining({ tenant_id: other.tenantId, run_id: lost[1] }));
    expect(await runs.reap(2)).toMatchObject([{ tenant_id: tenantId, run_id: lost[2] }]);
    for (const runId of lost)
      expect(await runs.row(runId)).toMatchObject({ state: "FAILED", crash_count: 1 });
  });

  test("eight reapers at once bring each back once", async () => {
    const lost = await Promise.all(Array.from({ length: 40 }, () => runs.running(tenantId, "plain")));
    for (const runId of lost) await runs.loseWorker(runId);
    const reaped = (await Promise.all(Array.from({ length: 8 }, () => runs.reap(15)))).flat();
    const told = [...reaped, ...(await runs.reap())].map((row) => row["run_id"]);
    expect(told.sort()).toEqual([...lost].sort());
    const [sums] = await rows(
      `select sum(crash_count)::int as crashes, count(*) filter (where state = 'FAILED')::int as failed
       from app.job_runs where id = any ($1)`,
      [lost],
    );
    expect(sums).toEqual({ crashes: 40, failed: 40 });
    expect(await rows("select from graphile_worker._private_jobs")).toHaveLength(40);
  });
});

test("runs that something else is at are passed over, not waited for", async () => {
  const [lost, busy] = [await runs.running(tenantId, "plain"), await runs.running(tenantId, "plain")];
  for (const runId of [lost, busy]) await runs.loseWorker(runId);
  const held = { text: "select from app.job_runs where id = $1", values: [busy] };
  const reaped = await besides(database, held, database.worker, "select run_id from app.job_reap()");
  expect(reaped).toEqual([{ run_id: lost }]);
  expect([(await runs.row(lost))["state"], (await runs.row(busy))["state"]]).toEqual(["FAILED", "RUNNING"]);
  expect(await runs.reap()).toMatchObject([{ run_id: busy }]);
});

test("a lost token is not its business", async () => {
  const runId = await runs.add(tenantId, "plain"); // and no token
  await rows(
    `update app.job_runs set available_at = now() - interval '1 day', token_at = now() - interval '1 day'
     where id = $1`,
    [runId],
  );
  expect(await runs.reap()).toEqual([]);
  expect(await runs.tokens(runId)).toEqual([]);
});

test("it refuses the service", async () => {
  await expect(database.service.pool.query("select app.job_reap()")).rejects.toMatchObject({ code: "42501" });
  await database.ops.query("select app.job_reap()");
});

test("an attempt of a tenant that was suspended meanwhile is no crash, however often", async () => {
  const suspended = await database.addTenant();
  const runId = await runs.running(suspended.tenantId, "plain");
  await rows("update app.tenants set status = 'SUSPENDED' where tenant_id = $1", [suspended.tenantId]);
  await runs.loseWorker(runId);
  expect(await runs.reap()).toMatchObject([{ run_id: runId, state: "FAILED", error_code: "worker_lost" }]);
  expect(await runs.row(runId)).toMatchObject({ crash_count: 0, failure_count: 0 });
  expect(await runs.claim(suspended.tenantId, runId)).toBeUndefined();
});
