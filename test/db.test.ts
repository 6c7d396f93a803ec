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

describe("a single statement that was refused by name", () => {
  const absent =
    "select id from app.analysis_get($1, $2, analysis_id => '00000000-0000-7000-8000-000000000000')";
  const refusal = { code: "analysis_not_found" };

  async function refuse(db: Db, options = {}): Promise<void> {
    await expect(call(db, tenant.id, absent, [], z.object({ id: z.uuid() }), options)).rejects.toMatchObject(
      refusal,
    );
  }

  /** A pool of one in which `DISCARD ALL` does what a test wants. */
  function poolThatCleans(discard: () => Promise<unknown>): Db {
    const db = poolOfOne();
    db.pool.on("connect", (client) => {
      const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>;
      Object.assign(client, {
        query: (text: unknown, ...rest: unknown[]) =>
          text === "discard all" ? discard() : query(text, ...rest),
      });
    });
    return db;
  }

  test("keeps its connection, for that must stay cheap", async () => {
    const db = poolOfOne();
    const pid = await backend(db);
    await refuse(db);
    expect(await backend(db)).toBe(pid);
    expect(await limitOf(db, tenant.id)).toBe(tenant.limit);
  });

  test("leaves nothing in the session that it had", async () => {
    const db = poolOfOne();
    const left = `current_setting('app.left_over', true) || ' ' || (select count(*) from pg_prepared_statements)
      || (select count(*) from pg_cursors) || (select count(*) from pg_listening_channels())`;
    for (const text of [
      "set app.left_over = 'behind'",
      "prepare held as select 1",
      "declare held cursor with hold for select 1",
      "listen held",
    ]) {
      await db.pool.query(text);
    }
    // The look itself is an unnamed statement.
    expect(await ask(db, left)).toBe("behind 111");
    const pid = await backend(db);
    await refuse(db);
    expect(await ask(db, left)).toBe(" 000");
    expect(await backend(db)).toBe(pid);
    expect(await ask(db, "current_setting('row_security') || current_setting('statement_timeout')")).toBe(
      "off15s",
    );
  });

  test("inside a transaction has its connection destroyed all the same", async () => {
    const db = poolOfOne();
    const pid = await backend(db);
    await refuse(db, { timeoutMs: 5_000 });
    expect(await backend(db)).not.toBe(pid);
    await gone(pid);
  });

  test("has its connection destroyed when it cannot be cleaned", async () => {
    const db = poolThatCleans(() => Promise.reject(new Error("no")));
    const pid = await backend(db);
    await refuse(db);
    expect(await backend(db)).not.toBe(pid);
    await gone(pid);
  });

  test("answers its caller at once, and does not wait long for the cleaning", async () => {
    const db = poolThatCleans(() => new Promise(() => {}));
    const pid = await backend(db);
    const started = performance.now();
    await refuse(db);
    expect(performance.now() - started).toBeLessThan(1_000);
    expect(await backend(db)).not.toBe(pid);
    expect(performance.now() - started).toBeGreaterThan(1_900);
    expect(performance.now() - started).toBeLessThan(4_500);
    await gone(pid);
  });

  test("lets the pool end while its connection is cleaned", async () => {
    const db = poolOfOne();
    await refuse(db);
    await db.pool.end();
    pools.splice(pools.indexOf(db.pool), 1);
    expect(db.pool.totalCount).toBe(0);
  });
});

test("a pool asks nothing of the server at its start, and has its limits from its role", async () => {
  const db = poolOfOne();
  const { rows } = await db.pool.query(
    "select name, source from pg_settings where source = 'client' or name ~ '_timeout$' and source = 'user' order by 1",
  );
  expect(rows).toEqual([
    { name: "application_name", source: "client" },
    { name: "client_encoding", source: "client" },
    { name: "idle_in_transaction_session_timeout", source: "user" },
    { name: "statement_timeout", source: "user" },
  ]);
});

describe("a refusal about the tenant", () => {
  const Nothing = z.unknown();
  const unknownKey = { kid: 9, secret: Buffer.alloc(32) };

  test("is told once, and no other error is", async () => {
    let told = 0;
    const db: Db = {
      ...poolOfOne(),
      onRlsRefusal: () => {
        told += 1;
      },
    };
    const refused = { code: "rls_enforcement_failed", status: 500, detail: {} };
    await expect(limitOf({ ...db, ticketKey: unknownKey }, tenant.id)).rejects.toMatchObject(refused);
    expect(told).toBe(1);
    await expect(
      limitOf({ ...db, ticketKey: unknownKey }, tenant.id, { timeoutMs: 900 }),
    ).rejects.toMatchObject(refused);
    expect(told).toBe(2);
    // A policy stopped it: the statement never entered.
    const bare = "select set_config('role', 'holdfast_tenant', false)";
    await db.pool.query(bare);
    await expect(systemCall(db, "select from app.tenants", [], Nothing)).rejects.toMatchObject(refused);
    expect(told).toBe(3);
    for (const text of [
      "select app.analysis_get($1, $2, analysis_id => $1)",
      "select app.schedule_tick(), $1::uuid, $2::text",
      "select 1 / 0, $1::uuid, $2::text",
    ]) {
      await expect(call(db, tenant.id, text, [], Nothing)).rejects.toThrow();
    }
    expect(told).toBe(3);
  });

  test("quotes no parameter, where the server would add them", async () => {
    const db = poolOfOne({ options: "-c log_parameter_max_length_on_error=-1" });
    const quoted = await db.pool
      .query("select app.budget_status($1, $2)", [tenant.id, "v1.1.cut"])
      .catch((error: pg.DatabaseError) => error.where);
    expect(quoted, "the server quotes").toContain(`$1 = '${tenant.id}', $2 = 'v1.1.cut'`);

    const error = await limitOf({ ...db, ticketKey: unknownKey }, tenant.id).catch(
      (caught: AppError) => caught,
    );
    const { where, ...cause } = (error as AppError).cause as pg.DatabaseError;
    expect(where).toContain("app.enter");
    expect(`${where} ${JSON.stringify(cause)}`).not.toMatch(/v1\.\d|\$\d =/);
    expect(`${where} ${JSON.stringify(cause)}`).not.toContain(tenant.id);
    const text = "select $3::text, 1 / 0, $1::uuid, $2::text";
    const bug = await call(db, tenant.id, text, ["two\nlines"], Nothing).catch((caught: unknown) => caught);
    expect(JSON.stringify(bug)).not.toMatch(/v1\.\d|lines/);
  });
});

describe("a call mints a ticket", () => {
  const Row = z.object({ tenant: z.string(), ticket: z.string(), pid: z.int(), now: z.number() });
  const text = `select $1::text as tenant, $2::text as ticket, pg_backend_pid() as pid,
    extract(epoch from now())::float8 as now`;

  async function minted(db: Db, options = {}) {
    const [row] = await call(db, tenant.id, text, [], Row, options);
    const parts = row!.ticket.split(".");
    expect(row!.tenant).toBe(tenant.id);
    expect(parts.slice(0, 3)).toEqual(["v1", "1", tenant.id]);
    return { pid: parts[3], backend: String(row!.pid), seconds: Number(parts[4]) - row!.now };
  }

  test("for the backend that it was lent, unless its key names none", async () => {
    const db = poolOfOne();
    for (const ticketBinding of [undefined, "backend"] as const) {
      const { pid, backend } = await minted({ ...db, ticketBinding });
      expect(pid).toBe(backend);
    }
    expect((await minted({ ...db, ticketBinding: "none" })).pid).toBe("0");
  });

  test.each([
    ["the role's 15 s", {}, 15],
    ["the call's own", { timeoutMs: 60_000 }, 60],
    ["10 s, where that is less", { timeoutMs: 500 }, 10],
  ])("that is good until its deadline: %s", async (_whose, options, seconds) => {
    const found = (await minted(poolOfOne(), options)).seconds;
    expect(found).toBeGreaterThan(seconds - 1);
    expect(found).toBeLessThanOrEqual(seconds + 1);
  });
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
