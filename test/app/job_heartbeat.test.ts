// sql/app/job_heartbeat.sql: a worker that is alive says so.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await runs.addKind("plain", { seconds: 60 });
});

const secondsUntil = (moment: Date) => (moment.getTime() - Date.now()) / 1_000;

async function startedAgo(runId: string, seconds: number): Promise<void> {
  await database.superuser.query(
    "update app.job_runs set started_at = clock_timestamp() - make_interval(secs => $2) where id = $1",
    [runId, seconds],
  );
}

describe("it works", () => {
  test("the lease is 20 s from now again, and nothing else changes", async () => {
    const runId = await runs.running(tenantId, "plain");
    await runs.loseWorker(runId);
    const before = await runs.row(runId);
    const lease = await runs.beat(tenantId, runId, 1);
    expect(Math.abs(secondsUntil(lease) - 20)).toBeLessThan(5);
    expect(await runs.row(runId)).toEqual({ ...before, lease_until: lease });
    expect(await runs.reap()).toEqual([]);
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING"]);
  });

  test("it works twice: each beat is 20 s from its own moment", async () => {
    const runId = await runs.running(tenantId, "plain");
    const first = await runs.beat(tenantId, runId, 1);
    const second = await runs.beat(tenantId, runId, 1);
    expect(second.getTime()).toBeGreaterThanOrEqual(first.getTime());
  });

  test("a worker that beats for ever holds no run for ever: the lease ends 20 s after the time of its kind", async () => {
    const runId = await runs.running(tenantId, "plain");
    await startedAgo(runId, 70);
    const lease = await runs.beat(tenantId, runId, 1);
    expect(Math.abs(secondsUntil(lease) - 10)).toBeLessThan(5);
    await startedAgo(runId, 90);
    expect(secondsUntil(await runs.beat(tenantId, runId, 1))).toBeLessThan(0);
    expect(await runs.reap()).toMatchObject([{ run_id: runId }]);
    await refusal(runs.beat(tenantId, runId, 1), "job_run_fenced");
  });
});

describe("it refuses", () => {
  test("an attempt that was overtaken, so that its worker stops", async () => {
    const runId = await runs.running(tenantId, "plain");
    await runs.loseWorker(runId);
    await runs.reap();
    await runs.claim(tenantId, runId, "w2");
    const before = await runs.row(runId);
    const refused = await refusal(runs.beat(tenantId, runId, 1), "job_run_fenced");
    expect(refused.detail).toMatchObject({ attempt: 1, now_at: 2 });
    expect(await runs.row(runId)).toEqual(before);
    await runs.beat(tenantId, runId, 2);
  });

  test("a run that has ended, waits, or is not there", async () => {
    const ended = await runs.running(tenantId, "plain");
    await runs.complete(tenantId, ended, 1, {});
    await refusal(runs.beat(tenantId, ended, 1), "job_run_fenced");
    await refusal(runs.beat(tenantId, await runs.add(tenantId, "plain"), 0), "job_run_fenced");
    await refusal(runs.beat(tenantId, randomUUID(), 1), "job_run_not_found");
  });
});

test("a stranger gets nothing", async () => {
  const runId = await runs.running(tenantId, "plain");
  const before = await runs.row(runId);
  const text = "select app.job_heartbeat($1, $2, $3, 1)";
  const stranger = await strangerIsRefused(database, database.worker, tenantId, text, [runId]);
  await refusal(runs.beat(stranger.tenantId, runId, 1), "job_run_not_found");
  expect(await runs.row(runId)).toEqual(before);
});
