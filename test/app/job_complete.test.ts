// sql/app/job_complete.sql: the result and the end of an attempt, both or neither. What a result must be is tested by
// test/app_private/narration_check.test.ts.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { collide, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
let tenantId = "";

const NOTHING_FOUND = { narrated_by: "template", fallback_reason: "no_findings", items: [] };

const analyses = async (runId: string) =>
  (await database.superuser.query("select * from app.analyses where id = $1", [runId])).rows;
const events = async (runId: string) =>
  (await database.superuser.query("select type, data from app.events where subject_id = $1", [runId])).rows;

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await runs.addKind("plain");
});

describe("it works", () => {
  test("the run is completed with its result", async () => {
    const runId = await runs.running(tenantId, "plain");
    expect(await runs.complete(tenantId, runId, 1, { rows: 3 })).toBe("COMPLETED");
    const row = await runs.row(runId);
    expect(row).toMatchObject({
      state: "COMPLETED",
      result: { rows: 3 },
      lease_until: null,
      error_code: null,
      error: null,
    });
    expect(row["finished_at"]).toBeInstanceOf(Date);
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING", "COMPLETED"]);
    expect(await analyses(runId)).toEqual([]);
  });

  test("the error of an earlier attempt is gone", async () => {
    const runId = await runs.running(tenantId, "plain");
    await runs.fail(tenantId, runId, 1);
    await runs.makeDue(runId);
    await runs.claim(tenantId, runId);
    await runs.complete(tenantId, runId, 2, null);
    expect(await runs.row(runId)).toMatchObject({
      error_code: null,
      error: null,
      failure_count: 1,
      attempt: 2,
    });
  });

  test("the result of an analysis is applied in the same transaction", async () => {
    const runId = await runs.running(tenantId);
    await runs.complete(tenantId, runId, 1, {
      ...NOTHING_FOUND,
      provider: "offline",
      model: "offline-analyst",
    });
    expect(await analyses(runId)).toMatchObject([
      { narrated_by: "template", fallback_reason: "no_findings", provider: "offline", finding_count: 0 },
    ]);
    expect(await events(runId)).toEqual([
      { type: "analysis.completed", data: { narrated_by: "template", fallback_reason: "no_findings" } },
    ]);
  });

  test("an attempt whose lease has passed, but whom nobody has reaped, may still complete", async () => {
    const runId = await runs.running(tenantId, "plain");
    await runs.loseWorker(runId);
    expect(await runs.complete(tenantId, runId, 1, {})).toBe("COMPLETED");
  });
});

describe("it works once", () => {
  test("a second completion is fenced, and the first stands", async () => {
    const runId = await runs.running(tenantId);
    await runs.complete(tenantId, runId, 1, NOTHING_FOUND);
    const refused = await refusal(
      runs.complete(tenantId, runId, 1, { ...NOTHING_FOUND, fallback_reason: "no_price" }),
      "job_run_fenced",
    );
    expect(refused).toMatchObject({
      status: 409,
      detail: { run_id: runId, attempt: 1, state: "COMPLETED", now_at: 1 },
    });
    expect(await analyses(runId)).toMatchObject([{ fallback_reason: "no_findings" }]);
    expect(await events(runId)).toHaveLength(1);
  });

  test("an attempt that was overtaken applies nothing", async () => {
    const runId = await runs.running(tenantId);
    await runs.loseWorker(runId);
    await runs.reap();
    expect(await runs.claim(tenantId, runId, "w2")).toMatchObject({ attempt: 2 });
    await refusal(runs.complete(tenantId, runId, 1, NOTHING_FOUND), "job_run_fenced");
    expect(await runs.row(runId)).toMatchObject({ state: "RUNNING", attempt: 2, result: null });
    expect(await analyses(runId)).toEqual([]);
    expect(await runs.complete(tenantId, runId, 2, NOTHING_FOUND)).toBe("COMPLETED");
    expect(await analyses(runId)).toHaveLength(1);
  });

  test("of completing and failing at once, one is done and the others are fenced", async () => {
    const runId = await runs.running(tenantId);
    const outcomes = await collide<unknown>(
      database,
      { text: "select from app.job_runs where id = $1", values: [runId] },
      [
        () => runs.complete(tenantId, runId, 1, NOTHING_FOUND),
        () => runs.fail(tenantId, runId, 1),
        () => runs.complete(tenantId, runId, 1, NOTHING_FOUND),
        () => runs.fail(tenantId, runId, 1),
      ],
    );
    expect(outcomes.filter((each) => each.status === "fulfilled")).toHaveLength(1);
    for (const each of outcomes)
      if (each.status === "rejected") expect(each.reason.code).toBe("job_run_fenced");
    const { state } = await runs.row(runId);
    expect(await analyses(runId)).toHaveLength(state === "COMPLETED" ? 1 : 0);
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING", state]);
  });
});

describe("it refuses", () => {
  test("a result that cannot be applied: the run goes on", async () => {
    const runId = await runs.running(tenantId);
    const items = [
      {
        finding_id: randomUUID(),
        rank: 1,
        headline: "a",
        why: "b",
        caveats: [],
        remediation_code: "no_action",
      },
    ];
    const result = { narrated_by: "model", fallback_reason: null, items };
    await refusal(runs.complete(tenantId, runId, 1, result), "analysis_invalid");
    expect(await runs.row(runId)).toMatchObject({ state: "RUNNING", result: null, finished_at: null });
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING"]);
  });

  test("a run that is not running, or not there", async () => {
    const runId = await runs.add(tenantId, "plain");
    await refusal(runs.complete(tenantId, runId, 0, {}), "job_run_fenced");
    await refusal(runs.complete(tenantId, runId, null as unknown as number, {}), "job_run_fenced");
    expect((await refusal(runs.complete(tenantId, randomUUID(), 1, {}), "job_run_not_found")).status).toBe(
      404,
    );
  });
});

test("a stranger gets nothing", async () => {
  const runId = await runs.running(tenantId, "plain");
  const text = "select app.job_complete($1, $2, $3, 1, '{}')";
  const stranger = await strangerIsRefused(database, database.worker, tenantId, text, [runId]);
  await refusal(runs.complete(stranger.tenantId, runId, 1, NOTHING_FOUND), "job_run_not_found");
  expect(await runs.row(runId)).toMatchObject({ state: "RUNNING", result: null });
});
