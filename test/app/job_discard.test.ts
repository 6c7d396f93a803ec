// sql/app/job_discard.sql: a dead letter that nobody needs to look at any more.
import { randomUUID } from "node:crypto";
import { beforeAll, expect, test } from "vitest";
import { bytesOf, oneAs, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
const DISCARD = "select * from app.job_discard($1, $2, $3, actor => $4, reason => $5)";
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await runs.addKind("mail");
});

const discard = (of: string, runId: string, actor = "joe", reason = "the address is gone") =>
  oneAs(database.service, of, DISCARD, [runId, actor, reason]);

async function dead(): Promise<string> {
  const runId = await runs.running(tenantId, "mail");
  await runs.fail(tenantId, runId, 1, "sqlstate_23505");
  return runId;
}

const lookedAt = async (runId: string) =>
  (await database.ops.query("select from ops.dead_letters where run = $1", [runId])).rowCount;

test("it works, and works twice: it is kept, with who and why, and is out of sight", async () => {
  const runId = await dead();
  expect(await lookedAt(runId)).toBe(1);
  const first = await discard(tenantId, runId);
  expect(first).toEqual({ state: "DEAD_LETTER", discarded_at: expect.any(Date) });
  expect(await discard(tenantId, runId, "ann", "me too")).toEqual(first);
  expect(await lookedAt(runId)).toBe(0);
  expect(await runs.row(runId)).toMatchObject({ error_code: "sqlstate_23505", actor: "joe" });
  const { rows } = await database.superuser.query(
    "select data from app.events where subject_id = $1 and type = 'run.discarded'",
    [runId],
  );
  expect(rows).toEqual([{ data: { kind: "mail", actor: "joe", reason: "the address is gone" } }]);
});

test("it refuses a run that is no dead letter, and a call without a reason", async () => {
  const runId = await runs.add(tenantId, "mail");
  const refused = await refusal(discard(tenantId, runId), "job_not_dead");
  expect(refused.detail).toEqual({ run_id: runId, state: "PENDING" });
  await refusal(discard(tenantId, await dead(), "joe", ""), "reason_required");
});

test("a stranger gets nothing, in the same bytes as for an id that is not there", async () => {
  const runId = await dead();
  const values = [runId, "joe", "the address is gone"];
  const stranger = await strangerIsRefused(database, database.service, tenantId, DISCARD, values);
  const foreign = await refusal(discard(stranger.tenantId, runId), "job_run_not_found");
  const absent = await refusal(discard(stranger.tenantId, randomUUID()), "job_run_not_found");
  expect(bytesOf(foreign)).toBe(bytesOf(absent));
  expect(await lookedAt(runId)).toBe(1);
});
