// sql/app/tokens_repair.sql: a run whose token was lost gets another.
import { beforeAll, beforeEach, expect, test } from "vitest";
import { besides, type Row } from "../support/contract.ts";
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

beforeEach(async () => {
  // What another test left waiting would be counted here.
  await rows("update app.job_runs set available_at = 'infinity' where state in ('PENDING', 'FAILED')");
  await rows("truncate graphile_worker._private_jobs");
});

/** Makes a run look as if it had waited for its token since then. */
async function waiting(runId: string, seconds: number): Promise<void> {
  await rows(
    `update app.job_runs set available_at = clock_timestamp() - make_interval(secs => $2),
       token_at = clock_timestamp() - make_interval(secs => $2) where id = $1`,
    [runId, seconds],
  );
}

test("the token of a run that has waited 15 s is queued again", async () => {
  const runId = await runs.add(tenantId, "plain"); // and no token
  await waiting(runId, 10);
  expect(await runs.repair()).toBe(0);
  expect(await runs.tokens(runId)).toEqual([]);
  await waiting(runId, 20);
  expect(await runs.repair()).toBe(1);
  expect(await runs.tokens(runId)).toMatchObject([
    { key: `run:${runId}:0`, payload: { tenant_id: tenantId, run_id: runId } },
  ]);
  expect(await runs.row(runId)).toMatchObject({ state: "PENDING", attempt: 0, crash_count: 0 });
});

test("it works twice: not again within 15 s, and a token that is still there is not touched", async () => {
  const runId = await runs.add(tenantId, "plain");
  await waiting(runId, 20);
  await runs.repair();
  expect(await runs.repair()).toBe(0);
  const untouched = () => rows("select id, updated_at, revision from graphile_worker._private_jobs");
  const before = await untouched();
  await waiting(runId, 20);
  const { rows: answer } = await database.worker.pool.query("select * from app.tokens_repair()");
  expect(answer).toEqual([{ looked_at: 1, repaired: 0 }]);
  expect(await untouched()).toEqual(before);
  // It was looked at, and is looked at again when 15 s have passed.
  expect((await database.worker.pool.query("select * from app.tokens_repair()")).rows).toEqual([
    { looked_at: 0, repaired: 0 },
  ]);
});

test("a token that graphile-worker gave up is as good as lost", async () => {
  const runId = await runs.add(tenantId, "plain");
  await waiting(runId, 20);
  await runs.repair();
  await rows(
    "update graphile_worker._private_jobs set attempts = max_attempts, last_error = 'no connection'",
  );
  await waiting(runId, 20);
  await runs.repair();
  const fetchable = (await runs.tokens(runId)).filter((token) => token["attempts"] < token["max_attempts"]);
  expect(fetchable).toMatchObject([{ key: `run:${runId}:0` }]);
});

test("the whole queue is lost: every waiting run gets its token, a running one none", async () => {
  const pending = await Promise.all(Array.from({ length: 5 }, () => runs.add(tenantId, "plain")));
  const failed = await runs.running(tenantId, "plain");
  await runs.fail(tenantId, failed, 1);
  const running = await runs.running(tenantId, "plain");
  await rows("truncate graphile_worker._private_jobs");
  for (const runId of [...pending, failed]) await waiting(runId, 20);
  expect(await runs.repair()).toBe(6);
  const keys = (await rows("select key from graphile_worker._private_jobs")).map((row) => row["key"]);
  expect(keys.sort()).toEqual([...pending.map((runId) => `run:${runId}:0`), `run:${failed}:1`].sort());
  await runs.complete(tenantId, running, 1, {});
});

test("a token that nobody who lives has held for 20 s is lost, one that a living worker holds is not", async () => {
  const [lost, held, fresh] = [
    await runs.add(tenantId, "plain"),
    await runs.add(tenantId, "plain"),
    await runs.add(tenantId, "plain"),
  ];
  for (const runId of [lost, held, fresh]) await waiting(runId, 20);
  expect(await runs.repair()).toBe(3);
  await rows("select from app.worker_beat('w', 'living', 'h', 1, '1', '{plain}', 4, '{}', '{}', '{}')");
  const lock = (runId: string, pool: string, seconds: number) =>
    rows(
      `update graphile_worker._private_jobs set locked_by = $2, locked_at = now() - make_interval(secs => $3)
       where payload ->> 'run_id' = $1`,
      [runId, pool, seconds],
    );
  await lock(lost, "dead", 21);
  await lock(held, "living", 100);
  await lock(fresh, "new", 5); // taken before its first beat
  for (const runId of [lost, held, fresh]) await waiting(runId, 20);
  expect(await runs.repair()).toBe(1);
  expect(
    await rows("select locked_by from graphile_worker._private_jobs where locked_by is null"),
  ).toHaveLength(1);
  expect((await runs.tokens(lost)).some((token) => token["attempts"] < token["max_attempts"])).toBe(true);
  await rows("select app.worker_stop('w')");
});

test("what is parked has no token to lose", async () => {
  const runId = await runs.add(tenantId, "plain");
  await waiting(runId, 20);
  await rows("update app.job_runs set token_at = null where id = $1", [runId]);
  expect(await runs.repair()).toBe(0);
});

test("the token of a suspended tenant is queued as the others; its claim parks the run", async () => {
  const suspended = await database.addTenant();
  const runId = await runs.add(suspended.tenantId, "plain");
  await waiting(runId, 20);
  await rows("update app.tenants set status = 'SUSPENDED' where tenant_id = $1", [suspended.tenantId]);
  expect(await runs.repair()).toBe(1);
  expect(await runs.claim(suspended.tenantId, runId)).toBeUndefined();
  expect(await runs.row(runId)).toMatchObject({ state: "PENDING", attempt: 0, token_at: null });
});

test("the queue is dropped and made again: every waiting run gets its token", async () => {
  const waitingRuns = await Promise.all(Array.from({ length: 5 }, () => runs.add(tenantId, "plain")));
  for (const runId of waitingRuns) await waiting(runId, 20);
  await rows("delete from graphile_worker._private_jobs");
  await rows("delete from graphile_worker._private_tasks");
  expect(await runs.repair()).toBe(5);
  for (const runId of waitingRuns) expect(await runs.tokens(runId)).toMatchObject([{ task: "run" }]);
});

test("what waits for its time is not repaired before it", async () => {
  const runId = await runs.running(tenantId, "plain");
  await runs.fail(tenantId, runId, 1);
  await rows(
    `update app.job_runs set available_at = clock_timestamp() + interval '1 hour',
       token_at = clock_timestamp() - interval '1 hour' where id = $1`,
    [runId],
  );
  expect(await runs.repair()).toBe(0);
});

test("runs that something else is at are passed over, not waited for", async () => {
  const [late, busy] = [await runs.add(tenantId, "plain"), await runs.add(tenantId, "plain")];
  for (const runId of [late, busy]) await waiting(runId, 20);
  const held = { text: "select from app.job_runs where id = $1", values: [busy] };
  const text = "select repaired as n from app.tokens_repair()";
  expect(await besides(database, held, database.worker, text)).toEqual([{ n: 1 }]);
  expect([(await runs.tokens(late)).length, (await runs.tokens(busy)).length]).toEqual([1, 0]);
  expect(await runs.repair()).toBe(1);
});

test("max_rows at a time, the longest overdue first", async () => {
  const [second, first] = [await runs.add(tenantId, "plain"), await runs.add(tenantId, "plain")];
  await waiting(second, 20);
  await waiting(first, 30);
  expect(await runs.repair(1)).toBe(1);
  expect([(await runs.tokens(first)).length, (await runs.tokens(second)).length]).toEqual([1, 0]);
  expect(await runs.repair(1)).toBe(1);
  expect(await runs.repair(1)).toBe(0);
});

test("it refuses the service", async () => {
  const refused = database.service.pool.query("select app.tokens_repair()");
  await expect(refused).rejects.toMatchObject({ code: "42501" });
  await database.ops.query("select app.tokens_repair()");
});
