// sql/app/job_claim.sql: one worker, one attempt.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { as, bytesOf, collide, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await runs.addKind("plain", { seconds: 42, maxRetries: 5 });
});

describe("it works", () => {
  test("a pending run is running, with a lease of 20 s, and the worker learns what to do", async () => {
    const runId = await runs.add(tenantId, "plain");
    await database.superuser.query("update app.job_runs set input = '{\"a\": 1}' where id = $1", [runId]);
    const claimed = await runs.claim(tenantId, runId, "worker 7");
    expect(claimed).toMatchObject({
      attempt: 1,
      kind: "plain",
      timeout_ms: 42_000,
      input: { a: 1 },
      max_attempts: 6,
    });
    expect(Math.abs(claimed!["lease_until"].getTime() - Date.now() - 20_000)).toBeLessThan(5_000);
    const row = await runs.row(runId);
    expect(row).toMatchObject({
      state: "RUNNING",
      attempt: 1,
      worker: "worker 7",
      lease_until: claimed!["lease_until"],
    });
    expect(row["started_at"]).toBeInstanceOf(Date);
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING"]);
    const { rows } = await database.superuser.query(
      "select actor, attempt from app.job_run_events where run_id = $1 and to_state = 'RUNNING'",
      [runId],
    );
    expect(rows).toEqual([{ actor: "worker 7", attempt: 1 }]);
  });

  test("a failed run is claimed again as its next attempt, once it is due", async () => {
    const runId = await runs.running(tenantId, "plain");
    await runs.fail(tenantId, runId, 1);
    expect(await runs.claim(tenantId, runId)).toBeUndefined();
    await runs.makeDue(runId);
    expect(await runs.claim(tenantId, runId)).toMatchObject({ attempt: 2 });
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING", "FAILED", "RUNNING"]);
  });

  test("a run that is not due yet is left", async () => {
    const runId = await runs.add(tenantId, "plain");
    await database.superuser.query(
      "update app.job_runs set available_at = now() + interval '1 minute' where id = $1",
      [runId],
    );
    expect(await runs.claim(tenantId, runId)).toBeUndefined();
    expect(await runs.row(runId)).toMatchObject({ state: "PENDING", attempt: 0 });
  });
});

describe("it works twice: the second token is stale", () => {
  test("of ten workers with the same token one gets the run", async () => {
    const runId = await runs.add(tenantId, "plain");
    const claims = Array.from({ length: 10 }, (_, index) => () => runs.claim(tenantId, runId, `w${index}`));
    const outcomes = await collide(
      database,
      { text: "select from app.job_runs where id = $1", values: [runId] },
      claims,
    );
    const claimed = outcomes.map((each) => (each.status === "fulfilled" ? each.value : each.reason));
    expect(claimed.filter((each) => each !== undefined)).toMatchObject([{ attempt: 1 }]);
    expect(await runs.row(runId)).toMatchObject({
      attempt: 1,
      worker: `w${claimed.findIndex((each) => each !== undefined)}`,
    });
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING"]);
  });

  test.each(["COMPLETED", "DEAD_LETTER"])("a run that is %s is not begun again", async (state) => {
    const runId = await runs.running(tenantId, "plain");
    if (state === "COMPLETED") await runs.complete(tenantId, runId, 1, {});
    else
      await database.superuser.query(
        "update app.job_runs set state = $2, error_code = 'x', lease_until = null, finished_at = now() where id = $1",
        [runId, state],
      );
    expect(await runs.claim(tenantId, runId)).toBeUndefined();
    expect(await runs.row(runId)).toMatchObject({ state, attempt: 1 });
  });
});

describe("it refuses", () => {
  test("a run that is not there, and another tenant's in the same bytes, whatever its state", async () => {
    const absent = await refusal(runs.claim(tenantId, randomUUID()), "job_run_not_found");
    expect(absent).toMatchObject({ status: 404, detail: {}, hint: expect.stringContaining("this tenant") });

    const foreign = (await database.addTenant()).tenantId;
    const [pending, running, failed, completed] = [
      await runs.add(foreign, "plain"),
      await runs.running(foreign, "plain"),
      await runs.running(foreign, "plain"),
      await runs.running(foreign, "plain"),
    ];
    await runs.fail(foreign, failed, 1);
    await runs.complete(foreign, completed, 1, {});
    for (const id of [pending, running, failed, completed, null as unknown as string]) {
      const before = await runs.row(id);
      const refused = await refusal(runs.claim(tenantId, id), "job_run_not_found");
      expect(bytesOf(refused)).toBe(bytesOf(absent));
      expect(await runs.row(id)).toEqual(before);
    }
  });

  test("a suspended tenant", async () => {
    const suspended = await database.addTenant();
    const runId = await runs.add(suspended.tenantId, "plain");
    await database.superuser.query("update app.tenants set status = 'SUSPENDED' where tenant_id = $1", [
      suspended.tenantId,
    ]);
    await refusal(runs.claim(suspended.tenantId, runId), "rls_enforcement_failed");
    expect(await runs.row(runId)).toMatchObject({ state: "PENDING" });
  });

  test("the service", async () => {
    const runId = await runs.add(tenantId, "plain");
    const text = "select * from app.job_claim($1, $2, $3, 'w')";
    await expect(as(database.service, tenantId, text, [runId])).rejects.toMatchObject({ code: "42501" });
  });
});

test("a stranger gets nothing", async () => {
  const runId = await runs.add(tenantId, "plain");
  const stranger = await strangerIsRefused(
    database,
    database.worker,
    tenantId,
    "select * from app.job_claim($1, $2, $3, 'w')",
    [runId],
  );
  await refusal(runs.claim(stranger.tenantId, runId), "job_run_not_found");
  expect(await runs.row(runId)).toMatchObject({ state: "PENDING", worker: null });
});
