// sql/app/job_runs.sql with its triggers: a run changes its state only as the table of transitions says, and each
// change is in the audit trail.
import { beforeAll, describe, expect, test } from "vitest";
import type { Row } from "../support/contract.ts";
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

/** What the columns of a state must hold. */
const COLUMNS: Record<string, string> = {
  PENDING: "lease_until = null, finished_at = null",
  RUNNING: "lease_until = now() + interval '1 minute', finished_at = null",
  COMPLETED: "lease_until = null, finished_at = now()",
  FAILED: "lease_until = null, finished_at = null, error_code = 'x'",
  DEAD_LETTER: "lease_until = null, finished_at = now(), error_code = 'x'",
};
const STATES = Object.keys(COLUMNS);

const move = (runId: string, state: string) =>
  rows(
    `update app.job_runs set state = $2, ${COLUMNS[state]}, actor = 'me', reason = 'for a test',
       replay_count = replay_count + (state = 'DEAD_LETTER')::integer where id = $1`,
    [runId, state],
  );

/** How to come to a state from PENDING. */
const WAY: Record<string, string[]> = {
  PENDING: [],
  RUNNING: ["RUNNING"],
  COMPLETED: ["RUNNING", "COMPLETED"],
  FAILED: ["RUNNING", "FAILED"],
  DEAD_LETTER: ["RUNNING", "DEAD_LETTER"],
};

const ALLOWED = new Set([
  "PENDING RUNNING",
  "PENDING DEAD_LETTER",
  "RUNNING COMPLETED",
  "RUNNING FAILED",
  "RUNNING DEAD_LETTER",
  "RUNNING PENDING",
  "FAILED RUNNING",
  "FAILED DEAD_LETTER",
  "DEAD_LETTER PENDING",
]);

describe("transitions", () => {
  const pairs = STATES.flatMap((from) => STATES.filter((to) => to !== from).map((to) => [from, to] as const));

  test.each(pairs)("%s to %s", async (from, to) => {
    const runId = await runs.add(tenantId, "plain");
    for (const state of WAY[from]!) await move(runId, state);
    const moved = move(runId, to);
    if (ALLOWED.has(`${from} ${to}`)) {
      await moved;
      expect(await runs.history(runId)).toEqual(["PENDING", ...WAY[from]!, to]);
    } else {
      await expect(moved).rejects.toMatchObject({ code: "JB202", message: "job_transition_refused" });
      expect(await runs.row(runId)).toMatchObject({ state: from });
      expect(await runs.history(runId)).toEqual(["PENDING", ...WAY[from]!]);
    }
  });

  test("a dead letter comes back by somebody alone, and is counted", async () => {
    const runId = await runs.add(tenantId, "plain");
    for (const state of WAY["DEAD_LETTER"]!) await move(runId, state);
    for (const by of ["replay_count = 1, actor = null", "actor = 'me'", "replay_count = 2, actor = 'me'"]) {
      const back = rows(
        `update app.job_runs set state = 'PENDING', finished_at = null, ${by} where id = $1`,
        [runId],
      );
      await expect(back).rejects.toMatchObject({ code: "JB202", message: "job_transition_refused" });
    }
  });

  test("one row that may not change stops a statement for all", async () => {
    const [pending, running] = [await runs.add(tenantId, "plain"), await runs.running(tenantId, "plain")];
    const text = `update app.job_runs set state = 'COMPLETED', ${COLUMNS["COMPLETED"]} where id = any ($1)`;
    await expect(rows(text, [[running, pending]])).rejects.toMatchObject({ code: "JB202" });
    expect([(await runs.row(pending))["state"], (await runs.row(running))["state"]]).toEqual([
      "PENDING",
      "RUNNING",
    ]);
  });

  test.each([
    ["RUNNING without a lease", "state = 'RUNNING'"],
    ["a lease without RUNNING", "lease_until = now()"],
    ["ended without a moment", "state = 'RUNNING', lease_until = now(), finished_at = now()"],
    ["a state that does not exist", "state = 'SLEEPING'"],
    ["a negative attempt", "attempt = -1"],
    ["RUNNING without a token", "state = 'RUNNING', lease_until = now(), token_at = null"],
    ["put aside before it is dead", "discarded_at = now()"],
    ["more than done", "progress = 1.5"],
  ])("a row may not be %s", async (_, columns) => {
    const runId = await runs.add(tenantId, "plain");
    await expect(rows(`update app.job_runs set ${columns} where id = $1`, [runId])).rejects.toMatchObject({
      code: expect.stringMatching(/^(23514|JB202)$/),
    });
  });
});

describe("the audit trail", () => {
  test("a change of anything but the state leaves no trace", async () => {
    const runId = await runs.add(tenantId, "plain");
    await rows("update app.job_runs set priority = 9, state = state where id = $1", [runId]);
    expect(await runs.history(runId)).toEqual(["PENDING"]);
  });

  test("many rows in one statement leave one trace each", async () => {
    const many = await rows(
      "insert into app.job_runs (tenant_id, kind, token_at) select $1, 'plain', now() from generate_series(1, 50) returning id",
      [tenantId],
    );
    const ids = many.map((row) => row["id"]);
    await rows(
      `update app.job_runs set state = 'RUNNING', attempt = 1, ${COLUMNS["RUNNING"]} where id = any ($1)`,
      [ids],
    );
    const events = await rows(
      "select run_id, from_state, to_state, attempt from app.job_run_events where run_id = any ($1) and to_state = 'RUNNING'",
      [ids],
    );
    expect(new Set(events.map((event) => event["run_id"])).size).toBe(50);
    expect(events).toHaveLength(50);
    expect(new Set(events.map((event) => `${event["from_state"]} ${event["attempt"]}`))).toEqual(
      new Set(["PENDING 1"]),
    );
  });

  test("it reads in the order in which things happened, however fast they do", async () => {
    const runId = await runs.add(tenantId, "plain");
    // Some hundred changes within a few milliseconds; the id alone says their order.
    await rows(
      `do $$
       declare v_id uuid := '${runId}';
       begin
         for i in 1 .. 100 loop
           update app.job_runs set state = 'RUNNING', lease_until = now() where id = v_id;
           update app.job_runs set state = 'PENDING', lease_until = null where id = v_id;
         end loop;
       end $$`,
    );
    const states = await runs.history(runId);
    expect(states).toHaveLength(201);
  });

  test("a partition of the table refuses a transition as the table does", async () => {
    const runId = await runs.add(tenantId, "plain");
    const [partition] = await rows(
      "select tableoid::regclass::text as name from app.job_runs where id = $1",
      [runId],
    );
    const moved = rows(
      `update ${partition!["name"]} set state = 'COMPLETED', finished_at = now() where id = $1`,
      [runId],
    );
    await expect(moved).rejects.toMatchObject({ code: "JB202" });
  });

  test("a whole life reads without a gap", async () => {
    const runId = await runs.running(tenantId, "plain");
    await runs.fail(tenantId, runId, 1);
    await runs.makeDue(runId);
    await runs.claim(tenantId, runId, "w2");
    await runs.loseWorker(runId);
    await runs.reap();
    await runs.claim(tenantId, runId, "w3");
    await runs.complete(tenantId, runId, 3, {});
    expect(await runs.history(runId)).toEqual([
      "PENDING",
      "RUNNING",
      "FAILED",
      "RUNNING",
      "FAILED",
      "RUNNING",
      "COMPLETED",
    ]);
    const reasons = await rows(
      "select attempt, reason from app.job_run_events where run_id = $1 order by created_at",
      [runId],
    );
    expect(reasons).toEqual([
      { attempt: 0, reason: null },
      { attempt: 1, reason: null },
      { attempt: 1, reason: "llm_timeout" },
      { attempt: 2, reason: null },
      { attempt: 2, reason: "worker_lost" },
      { attempt: 3, reason: null },
      { attempt: 3, reason: null },
    ]);
  });

  test("a tenant reads its own trail and no other, and nobody rewrites it", async () => {
    const [own, foreign] = [
      await runs.add(tenantId, "plain"),
      await runs.add((await database.addTenant()).tenantId, "plain"),
    ];
    const client = await database.service.pool.connect();
    try {
      await client.query("begin");
      await client.query("select app.enter($1, $2)", [tenantId, database.ticket(tenantId)]);
      await client.query("set local role holdfast_tenant");
      const { rows: seen } = await client.query(
        "select run_id from tenant.job_run_events where run_id = any ($1)",
        [[own, foreign]],
      );
      expect(seen).toEqual([{ run_id: own }]);
      await client.query("savepoint before");
      await expect(client.query("delete from tenant.job_run_events")).rejects.toMatchObject({
        code: "55000",
      });
      await client.query("rollback to before");
      await expect(client.query("delete from app.job_run_events")).rejects.toMatchObject({ code: "42501" });
    } finally {
      await client.query("rollback");
      client.release();
    }
  });
});
