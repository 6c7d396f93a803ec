// sql/app/job_progress.sql: how far an attempt is, and that somebody asked for its end.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { as, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await runs.addKind("plain");
});

const note = (
  whose: string,
  runId: string,
  attempt: unknown,
  progress: unknown,
  text: string | null = null,
) =>
  as(database.service, whose, "select app.job_progress($1, $2, $3, $4, $5, $6)", [
    runId,
    attempt,
    progress,
    text,
  ]);

describe("it works", () => {
  test("the run says how far it is, and nothing else of it changes", async () => {
    const runId = await runs.running(tenantId, "plain");
    const before = await runs.row(runId);
    for (const [progress, text] of [
      [0, null],
      [0.5, "half of the files"],
      [1, "the last one"],
    ] as const) {
      await note(tenantId, runId, 1, progress, text);
      expect(await runs.row(runId)).toEqual({ ...before, progress, progress_text: text });
    }
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING"]);
  });

  test("a long text is cut", async () => {
    const runId = await runs.running(tenantId, "plain");
    await note(tenantId, runId, 1, 0.1, "x".repeat(300));
    expect((await runs.row(runId))["progress_text"]).toBe("x".repeat(200));
  });
});

describe("it refuses", () => {
  test("an attempt that was overtaken, a run that has ended, waits, or is not there", async () => {
    const runId = await runs.running(tenantId, "plain");
    await refusal(note(tenantId, runId, 2, 0.5), "job_run_fenced");
    await runs.complete(tenantId, runId, 1, {});
    await refusal(note(tenantId, runId, 1, 0.5), "job_run_fenced");
    expect(await runs.row(runId)).toMatchObject({ state: "COMPLETED", progress: 1 });
    await refusal(note(tenantId, await runs.add(tenantId, "plain"), 0, 0.5), "job_run_fenced");
    await refusal(note(tenantId, randomUUID(), 1, 0.5), "job_run_not_found");
  });

  test.each([-0.1, 1.1, null, "NaN"])("a progress of %s", async (progress) => {
    const runId = await runs.running(tenantId, "plain");
    expect((await refusal(note(tenantId, runId, 1, progress), "argument_invalid")).detail).toEqual({
      argument: "progress",
    });
    expect(await runs.row(runId)).toMatchObject({ progress: null });
  });

  test("an attempt whose end was asked for: it learns so at once", async () => {
    const runId = await runs.running(tenantId, "plain");
    await database.superuser.query("update app.job_runs set cancel_requested_at = now() where id = $1", [
      runId,
    ]);
    const refused = await refusal(note(tenantId, runId, 1, 0.5), "job_cancelled");
    expect(refused).toMatchObject({ status: 409, detail: { run_id: runId } });
    await refusal(runs.beat(tenantId, runId, 1), "job_cancelled");
  });
});

test("a stranger gets nothing", async () => {
  const runId = await runs.running(tenantId, "plain");
  const text = "select app.job_progress($1, $2, $3, 1, 0.5)";
  const stranger = await strangerIsRefused(database, database.service, tenantId, text, [runId]);
  await refusal(note(stranger.tenantId, runId, 1, 0.5), "job_run_not_found");
  expect(await runs.row(runId)).toMatchObject({ progress: null });
});
