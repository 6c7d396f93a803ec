import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { call, createPool, type Db, systemCall } from "../src/db.ts";
import { AppError } from "../src/errors.ts";
import { TEST_TICKET_KEY } from "./support/constants.ts";
import { testDatabase } from "./support/database.ts";

const database = testDatabase();
const pools: pg.Pool[] = [];
const tenant = { id: "", limit: 1_000_000_000n };
const other = { id: "", limit: 2_000_000_000n };

beforeAll(async () => {
  tenant.id = (await database.addTenant({ limitUsd: "1" })).tenantId;
  other.id = (await database.addTenant({ limitUsd: "2" })).tenantId;
});
afterAll(async () => {
  await Promise.all(pools.map((pool) => pool.end()));
});

/** The service's login on a pool of one: what a call leaves behind, the next one meets. */
function poolOfOne(config: pg.PoolConfig = {}): Db {
  const pool = createPool({
    connectionString: database.url("holdfast_service"),
    max: 1,
    ...config,
    application_name: "db test",
  });
  pools.push(pool);
  return { pool, ticketKey: TEST_TICKET_KEY };
}

const Text = z.object({ said: z.string() });

async function ask(db: Db, expression: string, options = {}): Promise<string> {
  const [row] = await systemCall(db, `select (${expression})::text as said`, [], Text, options);
  return row!.said;
}

const backend = (db: Db) => ask(db, "pg_backend_pid()");

async function limitOf(db: Db, tenantId: string, options = {}): Promise<bigint> {
  const Limit = z.object({ limit_nanousd: z.coerce.bigint() });
  const [row] = await call(
    db,
    tenantId,
    "select limit_nanousd from app.budget_status($1, $2)",
    [],
    Limit,
    options,
  );
  return row!.limit_nanousd;
}

/** Waits until the server has no such backend; throws after 5 s. */
async function gone(pid: string): Promise<void> {
  for (let tries = 0; tries < 100; tries += 1) {
    const { rowCount } = await database.superuser.query("select from pg_stat_activity where pid = $1", [pid]);
    if (rowCount === 0) return;
    await sleep(50);
  }
  throw new Error(`backend ${pid} is still there`);
}

describe("a connection", () => {
  test("is kept after a call that succeeds", async () => {
    const db = poolOfOne();
    const pid = await backend(db);
    expect(await limitOf(db, tenant.id)).toBe(tenant.limit);
    expect(await limitOf(db, other.id, { timeoutMs: 5_000 })).toBe(other.limit);
    expect(await backend(db)).toBe(pid);
  });

  test.each<[string, (db: Db) => Promise<unknown>, unknown]>([
    [
      "a refusal by name",
      (db) => limitOf({ ...db, ticketKey: { kid: 9, secret: Buffer.alloc(32) } }, tenant.id),
      {
        code: "rls_enforcement_failed",
        sqlstate: "RL101",
        status: 500,
      },
    ],
    ["an error inside a transaction", (db) => ask(db, "1 / 0", { timeoutMs: 1_000 }), { code: "22012" }],
    ["a statement that does not parse", (db) => ask(db, "1 +"), { code: "42601" }],
    ["a row that is not what was promised", (db) => ask(db, "null"), { name: "ZodError" }],
    ["a time limit", (db) => ask(db, "pg_sleep(5)", { timeoutMs: 50 }), { code: "57014" }],
    [
      "an abort",
      (db) => ask(db, "pg_sleep(5)", { signal: AbortSignal.timeout(50) }),
      { name: "TimeoutError" },
    ],
  ])("is destroyed after %s, and the next call has another", async (_what, fail, error) => {
    const db = poolOfOne();
    const pid = await backend(db);
    const started = Date.now();
    await expect(fail(db)).rejects.toMatchObject(error as object);
    expect(Date.now() - started).toBeLessThan(3_000);

    expect(await backend(db)).not.toBe(pid);
    expect(await limitOf(db, tenant.id)).toBe(tenant.limit);
    expect(db.pool.totalCount).toBe(1);
    await gone(pid);
  });
});

test("a connection is kept after a refusal that is not about the tenant, which must stay cheap", async () => {
  const db = poolOfOne();
  const pid = await backend(db);
  const absent =
    "select id from app.analysis_get($1, $2, analysis_id => '00000000-0000-7000-8000-000000000000')";
  await expect(call(db, tenant.id, absent, [], z.object({ id: z.uuid() }))).rejects.toMatchObject({
    code: "analysis_not_found",
  });
  expect(await backend(db)).toBe(pid);
  expect(await limitOf(db, tenant.id)).toBe(tenant.limit);
});

test("a call mints a ticket for the backend that it was lent", async () => {
  const db = poolOfOne();
  const Row = z.object({ tenant: z.string(), ticket: z.string(), pid: z.int() });
  const text = "select $1::text as tenant, $2::text as ticket, pg_backend_pid() as pid";
  const [row] = await call(db, tenant.id, text, [], Row);
  expect(row!.tenant).toBe(tenant.id);
  expect(row!.ticket.split(".").slice(0, 4)).toEqual(["v1", "1", tenant.id, String(row!.pid)]);
});

describe("a time limit", () => {
  test("is the statement's alone: the next on the same connection has the pool's", async () => {
    const db = poolOfOne();
    expect(await ask(db, "current_setting('statement_timeout')", { timeoutMs: 1_234 })).toBe("1234ms");
    expect(await ask(db, "current_setting('statement_timeout')")).toBe("15s");
  });

  test("of nothing left is one of a millisecond, not none", async () => {
    const db = poolOfOne();
    await expect(ask(db, "pg_sleep(5)", { timeoutMs: 0 })).rejects.toMatchObject({ code: "57014" });
    await expect(ask(db, "pg_sleep(5)", { timeoutMs: -5 })).rejects.toMatchObject({ code: "57014" });
  });
});

describe("a signal", () => {
  test("that is aborted already asks nothing of the pool", async () => {
    const db = poolOfOne();
    const reason = new Error("too late");
    await expect(ask(db, "1", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(db.pool.totalCount).toBe(0);
  });

  test("ends the statement in the server too, within seconds", async () => {
    const db = poolOfOne();
    const pid = await backend(db);
    const stopper = new AbortController();
    const sleeping = ask(db, "pg_sleep(30)", { signal: stopper.signal });
    await sleep(100);
    stopper.abort(new Error("stop"));
    await expect(sleeping).rejects.toThrow("stop");
    await gone(pid);
  });

  test("that comes after the answer changes nothing", async () => {
    const db = poolOfOne();
    const stopper = new AbortController();
    const pid = await ask(db, "pg_backend_pid()", { signal: stopper.signal });
    stopper.abort();
    expect(await backend(db)).toBe(pid);
  });

  test("gives up waiting for a connection", async () => {
    const db = poolOfOne();
    const busy = ask(db, "pg_sleep(1.5)");
    const started = Date.now();
    await expect(ask(db, "1", { signal: AbortSignal.timeout(50) })).rejects.toMatchObject({
      name: "TimeoutError",
    });
    expect(Date.now() - started).toBeLessThan(1_000);
    await busy;
    expect(await ask(db, "1")).toBe("1");
  });
});

test("a pool that is exhausted refuses within its own time", async () => {
  const db = poolOfOne({ connectionTimeoutMillis: 100 });
  const busy = ask(db, "pg_sleep(1)");
  await expect(ask(db, "1")).rejects.toThrow("timeout exceeded when trying to connect");
  await busy;
  expect(await ask(db, "1")).toBe("1");
});

test("a pool of one, two tenants in turn and errors between them: nobody meets the other", async () => {
  const db = poolOfOne();
  const disturbances: ((tenantId: string) => Promise<unknown>)[] = [
    (id) => call(db, id, "select app.analysis_get($1, $2, analysis_id => $3)", [other.id], z.unknown()),
    (id) => call(db, id, "select app.llm_reserve($1, $2, 'k', 'x', 'x', 1, 1)", [], z.unknown()),
    (id) => call(db, id, "select app.enter($1, $2), app.enter($3, $2)", [other.id], z.unknown()),
    (id) => call(db, id, "select app.enter($1, $2), 1 / 0", [], z.unknown(), { timeoutMs: 1_000 }),
    (id) => call(db, id, "select app.enter($1, $2), pg_sleep(1)", [], z.unknown(), { timeoutMs: 5 }),
    (id) =>
      call(db, id, "select app.enter($1, $2), pg_sleep(1)", [], z.unknown(), {
        signal: AbortSignal.timeout(5),
      }),
  ];
  const rounds = 4 * disturbances.length;
  for (let step = 0; step < rounds; step += 1) {
    // Each disturbance comes before each tenant, with and without a transaction of its own.
    const round = Math.floor(step / disturbances.length);
    const current = (step + round) % 2 === 0 ? tenant : other;
    expect(await limitOf(db, current.id, round >= 2 ? { timeoutMs: 5_000 } : {})).toBe(current.limit);
    expect(await ask(db, "coalesce(current_setting('app.tenant', true), '')")).toBe("");
    expect(await ask(db, "current_setting('row_security') || session_user || current_user")).toBe(
      "offholdfast_serviceholdfast_service",
    );
    const error = await disturbances[step % disturbances.length]!(tenant.id).catch(
      (caught: unknown) => caught,
    );
    expect(error).toBeInstanceOf(Error);
    if (step % disturbances.length < 3) expect(error).toBeInstanceOf(AppError);
  }
});
