// sql/app/job_replay.sql: a dead letter that is tried again, as the same run.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { bytesOf, collide, oneAs, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
const REPLAY = "select * from app.job_replay($1, $2, $3, actor => $4, reason => $5, force => $6)";
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await runs.addKind("mail", { maxRetries: 1, baseMs: 60_000 });
  await runs.addKind("single", { maxRetries: 0 });
  await database.superuser.query("update app.job_kinds set max_running = 1 where kind = 'single'");
});

const replay = (of: string, runId: string, force = false, reason = "it is mended") =>
  oneAs(database.service, of, REPLAY, [runId, "joe", reason, force]);

async function dead(of = tenantId, kind = "mail", code = "sqlstate_23505"): Promise<string> {
  const runId = await runs.running(of, kind);
  await runs.fail(of, runId, 1, code);
  return runId;
}

/** A run of a turn of the scheduler, in one state. */
async function turn(of: string, slot: number, state: "COMPLETED" | "DEAD_LETTER"): Promise<string> {
  const runId = await runs.add(of, "mail");
  await database.superuser.query("update app.job_runs set slot = $2 where id = $1", [runId, slot]);
  await runs.claim(of, runId);
  if (state === "COMPLETED") await runs.complete(of, runId, 1, {});
  else await runs.fail(of, runId, 1, "sqlstate_23505");
  return runId;
}

describe("it works", () => {
  test("it is the same run, with all its retries; its attempts count on", async () => {
    const runId = await runs.running(tenantId, "mail");
    await runs.fail(tenantId, runId, 1, "smtp_down");
    await runs.makeDue(runId);
    await runs.claim(tenantId, runId);
    await runs.fail(tenantId, runId, 2, "smtp_down");
    expect(await runs.row(runId)).toMatchObject({ state: "DEAD_LETTER", failure_count: 2 });

    expect(await replay(tenantId, runId)).toMatchObject({ state: "PENDING", replay_count: 1 });
    expect(await runs.row(runId)).toMatchObject({
      state: "PENDING",
      attempt: 2,
      failure_count: 0,
      crash_count: 0,
      finished_at: null,
      discarded_at: null,
      token_at: expect.any(Date),
      actor: "joe",
      reason: "it is mended",
    });
    expect((await runs.tokens(runId)).map((token) => token["key"])).toContain(`run:${runId}:2`);
    expect(await runs.claim(tenantId, runId)).toMatchObject({ attempt: 3 });
    expect(await runs.fail(tenantId, runId, 3, "smtp_down")).toMatchObject({ state: "FAILED" });
    await refusal(runs.complete(tenantId, runId, 2, {}), "job_run_fenced");

    const { rows } = await database.superuser.query(
      `select from_state, to_state, attempt, actor, reason from app.job_run_events
       where run_id = $1 and from_state = 'DEAD_LETTER'`,
      [runId],
    );
    expect(rows).toEqual([
      { from_state: "DEAD_LETTER", to_state: "PENDING", attempt: 2, actor: "joe", reason: "it is mended" },
    ]);
    const told = await database.superuser.query(
      "select data from app.events where subject_id = $1 and type = 'run.replayed'",
      [runId],
    );
    expect(told.rows).toEqual([{ data: { kind: "mail", actor: "joe", reason: "it is mended", replay: 1 } }]);
  });

  test("a token of before, whether it waits or was used up, is replaced", async () => {
    for (const spoil of [
      "select 1",
      "update graphile_worker._private_jobs set attempts = max_attempts where key = $1",
    ]) {
      const runId = await runs.running(tenantId, "mail");
      await runs.fail(tenantId, runId, 1, "smtp_down");
      const key = `run:${runId}:1`;
      await database.superuser.query(spoil, spoil.includes("$1") ? [key] : []);
      await oneAs(
        database.service,
        tenantId,
        "select * from app.job_cancel($1, $2, $3, 'joe', 'by mistake')",
        [runId],
      );
      const [stale] = (await runs.tokens(runId)).filter((token) => token["key"] === key);
      expect(stale!["run_at"].getTime()).toBeGreaterThan(Date.now() + 10_000);

      const replayed = await replay(tenantId, runId);
      const tokens = (await runs.tokens(runId)).filter((token) => token["key"] === key);
      expect(tokens).toMatchObject([{ attempts: 0, run_at: replayed["available_at"] }]);
      expect(await runs.claim(tenantId, runId)).toMatchObject({ attempt: 2 });
    }
  });

  test("it takes a place like any other: none while all are taken", async () => {
    const other = await database.addTenant();
    const runId = await dead(other.tenantId, "single");
    const running = await runs.running(other.tenantId, "single");
    await replay(other.tenantId, runId);
    expect(await runs.row(runId)).toMatchObject({ token_at: null });
    // The token of a dead attempt that comes late starts nothing either.
    expect(await runs.claim(other.tenantId, runId)).toBeUndefined();
    await runs.complete(other.tenantId, running, 1, {});
    expect(await runs.row(runId)).toMatchObject({ token_at: expect.any(Date) });
    expect(await runs.claim(other.tenantId, runId)).toMatchObject({ attempt: 2 });
  });

  test("one that was put aside or cancelled comes back too", async () => {
    const runId = await dead();
    await oneAs(database.service, tenantId, "select * from app.job_discard($1, $2, $3, 'joe', 'useless')", [
      runId,
    ]);
    expect(await replay(tenantId, runId)).toMatchObject({ state: "PENDING" });
    expect(await runs.row(runId)).toMatchObject({ discarded_at: null });
  });
});

test("it works once: a second call finds no dead letter, ten at once are one", async () => {
  const runId = await dead();
  const outcomes = await collide(
    database,
    { text: "select from app.job_runs where id = $1", values: [runId] },
    Array.from({ length: 10 }, () => () => replay(tenantId, runId)),
  );
  expect(outcomes.filter((each) => each.status === "fulfilled")).toHaveLength(1);
  const refused = await refusal(replay(tenantId, runId), "job_not_dead");
  expect(refused.detail).toEqual({ run_id: runId, state: "PENDING" });
  expect(await runs.row(runId)).toMatchObject({ replay_count: 1 });
});

describe("it refuses", () => {
  test("a turn that a newer one has made needless, unless forced", async () => {
    const other = await database.addTenant();
    const now = Math.floor(Date.now() / 1000);
    const [old, newer] = [
      await turn(other.tenantId, now - 7200, "DEAD_LETTER"),
      await turn(other.tenantId, now - 3600, "DEAD_LETTER"),
    ];
    // Newer ones that failed, and what people asked for, supersede nothing.
    const asked = await runs.running(other.tenantId, "mail");
    await runs.complete(other.tenantId, asked, 1, {});
    expect(await replay(other.tenantId, newer)).toMatchObject({ state: "PENDING" });
    await runs.claim(other.tenantId, newer);
    await runs.complete(other.tenantId, newer, 2, {});

    const refused = await refusal(replay(other.tenantId, old), "replay_superseded");
    expect(refused.detail).toMatchObject({ run_id: old });
    expect(await runs.row(old)).toMatchObject({ state: "DEAD_LETTER", replay_count: 0 });
    expect(await replay(other.tenantId, old, true)).toMatchObject({ state: "PENDING", replay_count: 1 });
  });

  test("no reason", async () => {
    const runId = await dead();
    await refusal(replay(tenantId, runId, false, ""), "reason_required");
    expect(await runs.row(runId)).toMatchObject({ state: "DEAD_LETTER" });
  });
});

test("a stranger gets nothing, in the same bytes as for an id that is not there", async () => {
  const runId = await dead();
  const stranger = await strangerIsRefused(database, database.service, tenantId, REPLAY, [
    runId,
    "joe",
    "it is mended",
    true,
  ]);
  const foreign = await refusal(replay(stranger.tenantId, runId), "job_run_not_found");
  const absent = await refusal(replay(stranger.tenantId, randomUUID()), "job_run_not_found");
  expect(bytesOf(foreign)).toBe(bytesOf(absent));
  expect(await runs.row(runId)).toMatchObject({ state: "DEAD_LETTER" });
});
