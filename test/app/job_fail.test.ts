// sql/app/job_fail.sql: an attempt that failed is tried again later, or never.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { collide, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await runs.addKind("patient", { maxRetries: 8, baseMs: 1_000, capMs: 20_000 });
  await runs.addKind("once", { maxRetries: 0 });
  await runs.addKind("strict", { maxRetries: 3, fatal: ["bad_input", "gone"] });
});

const events = async (runId: string) =>
  (await database.superuser.query("select type, data from app.events where subject_id = $1", [runId])).rows;

/** Milliseconds from now until the run may be claimed. */
const waitOf = (failed: Record<string, unknown>) => (failed["available_at"] as Date).getTime() - Date.now();

describe("it works", () => {
  test("the run is failed, with its error, and its next token is queued for when it is due", async () => {
    const runId = await runs.running(tenantId, "patient");
    const failed = await runs.fail(
      tenantId,
      runId,
      1,
      "llm_timeout",
      "The model did not answer within 30 s.",
    );
    expect(failed).toMatchObject({ state: "FAILED" });
    expect(await runs.row(runId)).toMatchObject({
      state: "FAILED",
      failure_count: 1,
      error_code: "llm_timeout",
      error: "The model did not answer within 30 s.",
      lease_until: null,
      finished_at: null,
      available_at: failed["available_at"],
    });
    expect(await runs.tokens(runId)).toMatchObject([
      {
        task: "run",
        key: `run:${runId}:1`,
        payload: { tenant_id: tenantId, run_id: runId },
        run_at: failed["available_at"],
      },
    ]);
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING", "FAILED"]);
    expect(await events(runId)).toEqual([]);
  });

  test("the wait doubles from base to cap, with a jitter from half to one and a half", async () => {
    const runId = await runs.running(tenantId, "patient");
    for (const [index, expected] of [1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000].entries()) {
      const attempt = index + 1;
      const wait = waitOf(await runs.fail(tenantId, runId, attempt));
      expect(wait, `attempt ${attempt}`).toBeGreaterThan(expected * 0.5 - 1_500); // what the answer took to arrive
      expect(wait, `attempt ${attempt}`).toBeLessThanOrEqual(expected * 1.5 + 50);
      await runs.makeDue(runId);
      expect(await runs.claim(tenantId, runId)).toMatchObject({ attempt: attempt + 1 });
    }
  });

  test("after the last retry it is a dead letter, which has no token and is told of", async () => {
    const runId = await runs.running(tenantId, "strict");
    for (const attempt of [1, 2, 3]) {
      expect(await runs.fail(tenantId, runId, attempt)).toMatchObject({ state: "FAILED" });
      await runs.makeDue(runId);
      await runs.claim(tenantId, runId);
    }
    expect(await runs.fail(tenantId, runId, 4, "llm_unavailable")).toMatchObject({ state: "DEAD_LETTER" });
    const row = await runs.row(runId);
    expect(row).toMatchObject({
      state: "DEAD_LETTER",
      failure_count: 4,
      error_code: "llm_unavailable",
      lease_until: null,
    });
    expect(row["finished_at"]).toBeInstanceOf(Date);
    expect((await runs.tokens(runId)).map((token) => token["key"])).not.toContain(`run:${runId}:4`);
    expect(await events(runId)).toEqual([
      { type: "run.dead_letter", data: { kind: "strict", error_code: "llm_unavailable" } },
    ]);
    await runs.makeDue(runId);
    expect(await runs.claim(tenantId, runId)).toBeUndefined();
  });

  test("a code that is not one to retry is a dead letter at once", async () => {
    const runId = await runs.running(tenantId, "strict");
    expect(await runs.fail(tenantId, runId, 1, "gone")).toMatchObject({ state: "DEAD_LETTER" });
    expect(await runs.tokens(runId)).toEqual([]);
  });

  test("a kind without retries fails once", async () => {
    const runId = await runs.running(tenantId, "once");
    expect(await runs.fail(tenantId, runId, 1)).toMatchObject({ state: "DEAD_LETTER" });
  });

  test("a shutdown is no failure: the run is pending again, with a token at once", async () => {
    const runId = await runs.running(tenantId, "once");
    for (const attempt of [1, 2, 3]) {
      const stopped = await runs.fail(tenantId, runId, attempt, "shutdown", "The worker was stopped.");
      expect(stopped).toMatchObject({ state: "PENDING" });
      expect(await runs.row(runId)).toMatchObject({
        state: "PENDING",
        failure_count: 0,
        crash_count: 0,
        error_code: "shutdown",
        lease_until: null,
        finished_at: null,
      });
      expect(await runs.tokens(runId)).toContainEqual(
        expect.objectContaining({ key: `run:${runId}:${attempt}`, run_at: stopped["available_at"] }),
      );
      // Due at once: there is nothing to wait for.
      expect(await runs.claim(tenantId, runId, "w2")).toMatchObject({ attempt: attempt + 1 });
    }
    expect(await runs.history(runId)).toEqual([
      "PENDING",
      ...["RUNNING", "PENDING", "RUNNING", "PENDING", "RUNNING", "PENDING", "RUNNING"],
    ]);
    const reasons = await database.superuser.query(
      "select distinct reason from app.job_run_events where run_id = $1 and from_state = 'RUNNING'",
      [runId],
    );
    expect(reasons.rows).toEqual([{ reason: "shutdown" }]);
    expect(await events(runId)).toEqual([]);
    // Its failures count as before.
    expect(await runs.fail(tenantId, runId, 4)).toMatchObject({ state: "DEAD_LETTER" });
    expect(await runs.row(runId)).toMatchObject({ failure_count: 1 });
  });

  test("a long error is cut", async () => {
    const runId = await runs.running(tenantId, "patient");
    await runs.fail(tenantId, runId, 1, "llm_timeout", "x".repeat(5_000));
    expect((await runs.row(runId))["error"]).toBe("x".repeat(2_000));
  });
});

describe("job_backoff", () => {
  const backoffs = async (failures: number, base: number, cap: number): Promise<number[]> => {
    const { rows } = await database.superuser.query(
      `select extract(epoch from app_private.job_backoff($1, $2, $3)) * 1000 as ms from generate_series(1, 300)`,
      [failures, base, cap],
    );
    return rows.map((row) => Number(row.ms));
  };

  test.each([
    [1, 2_000, 3_600_000, 2_000],
    [5, 2_000, 3_600_000, 32_000],
    [11, 2_000, 3_600_000, 2_048_000],
    [12, 2_000, 3_600_000, 3_600_000],
    [1_000_000, 2_000, 3_600_000, 3_600_000],
  ])("failure %i of base %i and cap %i waits about %i ms", async (failures, base, cap, about) => {
    const waits = await backoffs(failures, base, cap);
    expect(Math.min(...waits)).toBeGreaterThanOrEqual(about * 0.5);
    expect(Math.max(...waits)).toBeLessThanOrEqual(about * 1.5);
    // Runs that failed together do not come back together.
    expect(Math.max(...waits) - Math.min(...waits)).toBeGreaterThan(about * 0.5);
  });
});

describe("it works once", () => {
  test("failing again is fenced: neither another failure nor another token", async () => {
    const runId = await runs.running(tenantId, "patient");
    await runs.fail(tenantId, runId, 1, "first");
    await refusal(runs.fail(tenantId, runId, 1, "second"), "job_run_fenced");
    expect(await runs.row(runId)).toMatchObject({ failure_count: 1, error_code: "first" });
    expect(await runs.tokens(runId)).toHaveLength(1);
  });

  test("ten at once are one", async () => {
    const runId = await runs.running(tenantId, "patient");
    const fails = Array.from({ length: 10 }, () => () => runs.fail(tenantId, runId, 1));
    const outcomes = await collide(
      database,
      { text: "select from app.job_runs where id = $1", values: [runId] },
      fails,
    );
    expect(outcomes.filter((each) => each.status === "fulfilled")).toHaveLength(1);
    expect(await runs.row(runId)).toMatchObject({ failure_count: 1, attempt: 1 });
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING", "FAILED"]);
  });
});

describe("it refuses", () => {
  test("an attempt that was overtaken", async () => {
    const runId = await runs.running(tenantId, "patient");
    await runs.loseWorker(runId);
    await runs.reap();
    await runs.claim(tenantId, runId, "w2");
    const refused = await refusal(runs.fail(tenantId, runId, 1), "job_run_fenced");
    expect(refused.detail).toMatchObject({ attempt: 1, state: "RUNNING", now_at: 2 });
    expect(await runs.row(runId)).toMatchObject({ state: "RUNNING", failure_count: 0 });
  });

  test("a run that is not there", async () => {
    await refusal(runs.fail(tenantId, randomUUID(), 1), "job_run_not_found");
  });

  test("a failure without a code: the run goes on", async () => {
    const runId = await runs.running(tenantId, "patient");
    await refusal(runs.fail(tenantId, runId, 1, null), "argument_invalid");
    expect(await runs.row(runId)).toMatchObject({ state: "RUNNING", failure_count: 0 });
  });
});

test("a stranger gets nothing", async () => {
  const runId = await runs.running(tenantId, "patient");
  const text = "select * from app.job_fail($1, $2, $3, 1, 'x', 'x')";
  const stranger = await strangerIsRefused(database, database.worker, tenantId, text, [runId]);
  await refusal(runs.fail(stranger.tenantId, runId, 1), "job_run_not_found");
  expect(await runs.row(runId)).toMatchObject({ state: "RUNNING", failure_count: 0 });
});
