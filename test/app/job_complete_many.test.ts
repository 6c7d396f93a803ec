// Many attempts ended in one call: those whose kind applies nothing, and no other.
import { beforeAll, describe, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
const tenants: string[] = [];
let kind: string;

beforeAll(async () => {
  kind = await runs.addKind("plain");
  for (let n = 0; n < 3; n += 1) tenants.push((await database.addTenant()).tenantId);
});

type Ended = { tenantId: string; runId: string; attempt: number; result?: unknown };

async function completeMany(ended: Ended[]): Promise<string[]> {
  const { rows } = await database.worker.pool.query<{ run_id: string }>(
    "select run_id from app.job_complete_many($1, $2, $3, $4)",
    [
      ended.map((each) => each.tenantId),
      ended.map((each) => each.runId),
      ended.map((each) => each.attempt),
      ended.map((each) => JSON.stringify(each.result ?? null)),
    ],
  );
  return rows.map((row) => row.run_id);
}

const running = async (tenantId: string, ofKind = kind): Promise<Ended> => ({
  tenantId,
  runId: await runs.running(tenantId, ofKind),
  attempt: 1,
});

describe("app.job_complete_many", () => {
  test("completes the runs of several tenants, each with its own result and its own trail", async () => {
    const ended = await Promise.all(tenants.map((tenantId) => running(tenantId)));
    ended.forEach((each, n) => {
      each.result = { n };
    });
    expect((await completeMany(ended)).sort()).toEqual(ended.map((each) => each.runId).sort());
    for (const { runId, result } of ended) {
      expect(await runs.row(runId)).toMatchObject({
        state: "COMPLETED",
        result,
        lease_until: null,
        progress: 1,
      });
      expect(await runs.history(runId)).toEqual(["PENDING", "RUNNING", "COMPLETED"]);
    }
  });

  test("twice is once", async () => {
    const ended = [await running(tenants[0]!)];
    expect(await completeMany(ended)).toHaveLength(1);
    expect(await completeMany(ended)).toEqual([]);
    expect(await completeMany([ended[0]!, ended[0]!])).toEqual([]);
  });

  test("leaves another attempt, another tenant, another kind and an absent run to job_complete", async () => {
    const [older, foreign, applies] = [
      { ...(await running(tenants[0]!)), attempt: 2 },
      { ...(await running(tenants[0]!)), tenantId: tenants[1]! },
      await running(tenants[0]!, "analysis"),
    ];
    const absent = { tenantId: tenants[0]!, runId: "00000000-0000-7000-8000-000000000000", attempt: 1 };
    const good = await running(tenants[2]!);
    expect(await completeMany([older, foreign, applies, absent, good])).toEqual([good.runId]);
    for (const { runId } of [older, foreign, applies]) {
      expect(await runs.row(runId)).toMatchObject({ state: "RUNNING", result: null });
    }
  });

  test("waits for nobody: a run that somebody holds is left to job_complete", async () => {
    const [held, free] = [await running(tenants[0]!), await running(tenants[1]!)];
    const client = await database.superuser.connect();
    try {
      await client.query("begin");
      await client.query("select from app.job_runs where id = $1 for update", [held.runId]);
      expect(await completeMany([held, free])).toEqual([free.runId]);
    } finally {
      await client.query("rollback");
      client.release();
    }
    expect(await runs.complete(held.tenantId, held.runId, 1, {})).toBe("COMPLETED");
  });

  test("eight callers with the same runs in different orders complete each once, and wait for no one", async () => {
    const ended = await Promise.all(Array.from({ length: 24 }, (_, n) => running(tenants[n % 3]!)));
    const before = await deadlocks();
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => completeMany([...ended].sort(() => Math.random() - 0.5))),
    );
    const completed = answers.flat();
    expect(new Set(completed).size).toBe(completed.length);
    for (const { runId } of ended) expect(await runs.history(runId)).toHaveLength(3);
    expect(await deadlocks()).toBe(before);
  });

  test("is the worker's alone", async () => {
    for (const pool of [database.service.pool, database.ops]) {
      await expect(pool.query("select app.job_complete_many('{}', '{}', '{}', '{}')")).rejects.toMatchObject({
        code: "42501",
      });
    }
  });
});

async function deadlocks(): Promise<number> {
  const { rows } = await database.superuser.query(
    "select deadlocks::int from pg_stat_database where datname = current_database()",
  );
  return rows[0].deadlocks;
}
