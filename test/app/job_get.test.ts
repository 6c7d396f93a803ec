// sql/app/job_get.sql: one run, with its changes of state.
import { randomUUID } from "node:crypto";
import { beforeAll, expect, test } from "vitest";
import { bytesOf, oneAs, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
const GET = "select * from app.job_get($1, $2, $3)";
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await runs.addKind("mail");
});

const get = (of: string, runId: string) => oneAs(database.service, of, GET, [runId]);

test("it works: what was asked, what became of it, and each change of state", async () => {
  const runId = await runs.running(tenantId, "mail");
  await runs.fail(tenantId, runId, 1, "smtp_down", "No answer.");
  await runs.makeDue(runId);
  await runs.claim(tenantId, runId, "w2");
  await runs.complete(tenantId, runId, 2, { sent: 1 });

  const job = await get(tenantId, runId);
  expect(job).toMatchObject({
    kind: "mail",
    state: "COMPLETED",
    attempt: 2,
    failure_count: 1,
    crash_count: 0,
    replay_count: 0,
    slot: null,
    input: {},
    result: { sent: 1 },
    error_code: null,
    actor: null,
    reason: null,
  });
  const at = expect.stringMatching(/^\d{4}-\d\d-\d\dT/);
  expect(job["events"]).toEqual([
    { at, from: null, to: "PENDING", attempt: 0, actor: expect.any(String), reason: null },
    { at, from: "PENDING", to: "RUNNING", attempt: 1, actor: "w1", reason: null },
    { at, from: "RUNNING", to: "FAILED", attempt: 1, actor: "w1", reason: "smtp_down" },
    { at, from: "FAILED", to: "RUNNING", attempt: 2, actor: "w2", reason: null },
    { at, from: "RUNNING", to: "COMPLETED", attempt: 2, actor: "w2", reason: null },
  ]);
  expect(await get(tenantId, runId)).toEqual(job);
});

test("it refuses an id that is not there, and a stranger's, in the same bytes", async () => {
  const runId = await runs.add(tenantId, "mail");
  const stranger = await strangerIsRefused(database, database.service, tenantId, GET, [runId]);
  const foreign = await refusal(get(stranger.tenantId, runId), "job_run_not_found");
  const absent = await refusal(get(stranger.tenantId, randomUUID()), "job_run_not_found");
  expect(bytesOf(foreign)).toBe(bytesOf(absent));
});
