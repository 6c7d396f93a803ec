// sql/app/job_cancel.sql: the end of a run that a person asks for.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { bytesOf, collide, oneAs, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
const CANCEL = "select * from app.job_cancel($1, $2, $3, actor => $4, reason => $5, force => $6)";
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await runs.addKind("mail");
  await runs.addKind("single");
  await database.superuser.query("update app.job_kinds set max_running = 1 where kind = 'single'");
});

const cancel = (
  of: string,
  runId: string,
  force = false,
  actor: string | null = "joe",
  reason = "not needed",
) => oneAs(database.service, of, CANCEL, [runId, actor, reason, force]);

const events = async (runId: string) =>
  (
    await database.superuser.query("select type, data from app.events where subject_id = $1 order by id", [
      runId,
    ])
  ).rows;

const beat = async (runId: string, attempt: number) =>
  (
    await database.worker.pool.query(
      `select verdict from app.worker_beat('w1', 'p', 'h', 1, '1', '{mail,single}', 1, array[$1::uuid], array[$2::uuid], array[$3::integer])`,
      [tenantId, runId, attempt],
    )
  ).rows.map((row) => row.verdict);

describe("it works", () => {
  test("one that waits has ended at once, put aside, with who and why", async () => {
    const runId = await runs.add(tenantId, "mail");
    expect(await cancel(tenantId, runId)).toMatchObject({
      state: "DEAD_LETTER",
      finished_at: expect.any(Date),
      from_state: "PENDING",
    });
    const row = await runs.row(runId);
    expect(row).toMatchObject({
      state: "DEAD_LETTER",
      error_code: "job_cancelled",
      discarded_at: expect.any(Date),
      actor: "joe",
      reason: "not needed",
    });
    expect(await runs.claim(tenantId, runId)).toBeUndefined();
    expect(await events(runId)).toEqual([
      { type: "run.cancelled", data: { kind: "mail", error_code: "job_cancelled", reason: "not needed" } },
    ]);
    const { rows } = await database.superuser.query(
      "select from_state, to_state, actor, reason from app.job_run_events where run_id = $1 order by id desc limit 1",
      [runId],
    );
    expect(rows).toEqual([
      { from_state: "PENDING", to_state: "DEAD_LETTER", actor: "joe", reason: "not needed" },
    ]);
  });

  test("one that failed and waits for its next try", async () => {
    const runId = await runs.running(tenantId, "mail");
    await runs.fail(tenantId, runId, 1);
    expect(await cancel(tenantId, runId)).toMatchObject({ state: "DEAD_LETTER", from_state: "FAILED" });
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING", "FAILED", "DEAD_LETTER"]);
  });

  test("the worker of one that runs is told, and writes its end", async () => {
    const runId = await runs.running(tenantId, "mail");
    expect(await beat(runId, 1)).toEqual([]);
    const asked = await cancel(tenantId, runId);
    expect(asked).toMatchObject({
      state: "RUNNING",
      finished_at: null,
      cancel_requested_at: expect.any(Date),
      from_state: null,
    });
    expect(await events(runId)).toMatchObject([{ type: "run.cancel_requested" }]);
    expect(await beat(runId, 1)).toEqual(["cancelled"]);
    expect(await runs.fail(tenantId, runId, 1, "job_cancelled", "stopped")).toMatchObject({
      state: "DEAD_LETTER",
    });
    expect(await runs.row(runId)).toMatchObject({ discarded_at: expect.any(Date), actor: "joe" });
  });

  test("with force it ends at once, and what the attempt does is fenced", async () => {
    const runId = await runs.running(tenantId, "mail");
    expect(await cancel(tenantId, runId, true)).toMatchObject({
      state: "DEAD_LETTER",
      from_state: "RUNNING",
    });
    await refusal(runs.complete(tenantId, runId, 1, {}), "job_run_fenced");
    expect(await beat(runId, 1)).toEqual(["fenced"]);
    expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING", "DEAD_LETTER"]);
  });

  test("its place goes to the next one", async () => {
    const other = await database.addTenant();
    const add = async () =>
      (
        await database.ops.query("select run from ops.job_enqueue($1, 'single', reason => 'test')", [
          other.name,
        ])
      ).rows[0].run;
    const [first, second] = [await add(), await add()];
    expect((await runs.row(second))["token_at"]).toBeNull();
    await cancel(other.tenantId, first);
    expect((await runs.row(second))["token_at"]).toBeInstanceOf(Date);
    expect(await runs.tokens(second)).toHaveLength(1);
  });
});

describe("it works twice", () => {
  test("one that was cancelled stays as it is", async () => {
    const runId = await runs.add(tenantId, "mail");
    const first = await cancel(tenantId, runId);
    expect(await cancel(tenantId, runId, true, "ann", "me too")).toEqual({ ...first, from_state: null });
    expect(await runs.row(runId)).toMatchObject({ actor: "joe" });
    expect(await events(runId)).toHaveLength(1);
  });

  test("asked again, a running one has no more time; forced, it ends", async () => {
    const runId = await runs.running(tenantId, "mail");
    const first = await cancel(tenantId, runId);
    expect(await cancel(tenantId, runId)).toEqual(first);
    const forced = await cancel(tenantId, runId, true);
    expect(forced).toMatchObject({ state: "DEAD_LETTER", cancel_requested_at: first["cancel_requested_at"] });
    expect((await events(runId)).map((event) => event.type)).toEqual([
      "run.cancel_requested",
      "run.cancelled",
    ]);
  });

  test("ten at once are one", async () => {
    const runId = await runs.add(tenantId, "mail");
    const outcomes = await collide(
      database,
      { text: "select from app.job_runs where id = $1", values: [runId] },
      Array.from({ length: 10 }, () => () => cancel(tenantId, runId)),
    );
    const changed = outcomes.map((each) => each.status === "fulfilled" && each.value["from_state"]);
    expect(changed.sort()).toEqual(["PENDING", ...Array(9).fill(null)].sort());
    expect(await events(runId)).toHaveLength(1);
    expect(await runs.history(runId)).toEqual(["PENDING", "DEAD_LETTER"]);
  });
});

describe("it refuses", () => {
  test("one that has ended otherwise", async () => {
    const done = await runs.running(tenantId, "mail");
    await runs.complete(tenantId, done, 1, {});
    const refused = await refusal(cancel(tenantId, done), "job_ended");
    expect(refused.detail).toEqual({ run_id: done, state: "COMPLETED" });
    const dead = await runs.running(tenantId, "mail");
    await runs.fail(tenantId, dead, 1, "sqlstate_23505");
    await refusal(cancel(tenantId, dead, true), "job_ended");
  });

  test.each([
    ["no reason", "joe", " ", "reason_required"],
    ["nobody", " ", "not needed", "argument_invalid"],
    ["no actor", null, "not needed", "argument_invalid"],
    ["a reason too long", "joe", "x".repeat(501), "argument_invalid"],
  ])("%s", async (_what, actor, reason, code) => {
    const runId = await runs.add(tenantId, "mail");
    await refusal(cancel(tenantId, runId, false, actor, reason), code);
    expect(await runs.row(runId)).toMatchObject({ state: "PENDING", actor: null });
  });
});

test("a stranger gets nothing, in the same bytes as for an id that is not there", async () => {
  const runId = await runs.add(tenantId, "mail");
  const values = [runId, "joe", "not needed", true];
  const stranger = await strangerIsRefused(database, database.service, tenantId, CANCEL, values);
  const foreign = await refusal(cancel(stranger.tenantId, runId), "job_run_not_found");
  const absent = await refusal(cancel(stranger.tenantId, randomUUID()), "job_run_not_found");
  expect(bytesOf(foreign)).toBe(bytesOf(absent));
  expect(await runs.row(runId)).toMatchObject({ state: "PENDING" });
});
