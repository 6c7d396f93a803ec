// Behind a real transaction pooler, where a client's next statement may meet any backend: nothing is asked of the server
// at the start, tickets name no backend, and no tenant meets another.
import { randomBytes } from "node:crypto";
import type pg from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from "vitest";
import { z } from "zod";
import { mintToken } from "../src/auth.ts";
import { call, createPool, type Db, systemCall } from "../src/db.ts";
import { AppError } from "../src/errors.ts";
import { refuseUnsafeLogin, refuseWrongTicketKey } from "../src/login_check.ts";
import { TEST_TICKET_KEY } from "./support/constants.ts";
import { testDatabase } from "./support/database.ts";
import { type Pooler, pgbouncerPath, startPooler } from "./support/pgbouncer.ts";
import { endProcesses, run } from "./support/process.ts";

const server = inject("server");
const database = testDatabase();
const path = pgbouncerPath();
if (path === undefined) console.info("No pgbouncer on this machine: what is behind a pooler is not tested.");

const tenants = [
  { id: "", limit: 1_000_000_000n },
  { id: "", limit: 2_000_000_000n },
] as const;
const Limit = z.object({ limit_nanousd: z.coerce.bigint() });
const Nothing = z.unknown();

async function limitOf(db: Db, tenantId: string, options = {}): Promise<bigint> {
  const text = "select limit_nanousd from app.budget_status($1, $2)";
  return (await call(db, tenantId, text, [], Limit, options))[0]!.limit_nanousd;
}

async function bindTo(binding: "backend" | "none"): Promise<void> {
  await database.ops.query("select * from ops.ticket_key_set(1, binding => $1, reason => 'a test')", [
    binding,
  ]);
}

describe.skipIf(path === undefined).each([1, 2])(
  "a transaction pooler with %i connections",
  (connections) => {
    let pooler: Pooler;
    const pools: pg.Pool[] = [];

    const url = () => {
      const address = new URL(database.url("holdfast_service"));
      address.host = `127.0.0.1:${pooler.port}`;
      return address.href;
    };

    function open(config: pg.PoolConfig = {}): pg.Pool {
      const pool = createPool({ connectionString: url(), max: 4, ...config, application_name: "pooled" });
      pools.push(pool);
      return pool;
    }

    beforeAll(async () => {
      pooler = await startPooler(server, connections);
      for (const [index, tenant] of tenants.entries()) {
        Object.assign(tenant, { id: (await database.addTenant({ limitUsd: String(index + 1) })).tenantId });
      }
    });
    afterEach(async () => {
      await endProcesses();
      await Promise.all(pools.splice(0).map((pool) => pool.end()));
      await bindTo("none");
    });
    afterAll(() => pooler?.stop());

    test("is asked for nothing that it refuses, and would refuse what a pool could ask for", async () => {
      const pool = open();
      await refuseUnsafeLogin({ pool }, "development");
      expect(await refuseWrongTicketKey({ pool, ticketKey: TEST_TICKET_KEY })).toBe("none");
      expect(await refuseWrongTicketKey(database.worker)).toBe("backend"); // beside it, the same key
      for (const asked of [{ statement_timeout: 15_000 }, { options: "-c row_security=on" }]) {
        await expect(open(asked).query("select 1")).rejects.toThrow(/unsupported startup parameter/);
      }
      const settings = `current_setting('statement_timeout') || ' ' || current_setting('row_security') || ' '
      || current_setting('idle_in_transaction_session_timeout')`;
      const [found] = await systemCall(
        { pool },
        `select ${settings} as said`,
        [],
        z.object({ said: z.string() }),
      );
      expect(found!.said).toBe("15s off 15s");
    });

    test("is refused at the start while tickets must name their backend, and so is every call", async () => {
      await bindTo("backend");
      const pool = open();
      const refused = await refuseWrongTicketKey({ pool, ticketKey: TEST_TICKET_KEY }).catch(
        (error: unknown) => error,
      );
      expect(refused).toMatchObject({
        code: "config_invalid",
        message: expect.stringContaining("pooler"),
        hint: expect.stringContaining(
          "select * from ops.ticket_key_set(1, binding => 'none', reason => '…');",
        ),
      });
      for (const ticketBinding of ["backend", "none"] as const) {
        const db: Db = { pool, ticketKey: TEST_TICKET_KEY, ticketBinding };
        await expect(limitOf(db, tenants[0].id)).rejects.toMatchObject({ code: "rls_enforcement_failed" });
      }
    });

    test("keeps two tenants apart through refusals, aborts, time limits and broken transactions", async () => {
      let refusals = 0;
      const pool = open();
      const db: Db = {
        pool,
        ticketKey: TEST_TICKET_KEY,
        ticketBinding: await refuseWrongTicketKey({ pool, ticketKey: TEST_TICKET_KEY }),
        onRlsRefusal: () => {
          refusals += 1;
        },
      };
      const Pid = z.object({ pid: z.int() });
      const pids = await Promise.all(
        Array.from({ length: 8 }, () => systemCall(db, "select pg_backend_pid() as pid", [], Pid)),
      );
      // More clients than backends, or nothing is shown here.
      expect(new Set(pids.flat().map((row) => row.pid)).size).toBeLessThanOrEqual(connections);

      const foreign = (id: string) => tenants.find((tenant) => tenant.id !== id)!.id;
      const absent = "select app.analysis_get($1, $2, analysis_id => $3)";
      const disturbances: [string, (id: string) => Promise<unknown>][] = [
        ["analysis_not_found", (id) => call(db, id, absent, [foreign(id)], Nothing)],
        ["analysis_not_found", (id) => call(db, id, absent, [foreign(id)], Nothing, { timeoutMs: 5_000 })],
        [
          "rls_enforcement_failed",
          (id) => call(db, id, "select app.budget_status($3, $2), $1::uuid", [foreign(id)], Nothing),
        ],
        [
          "rls_enforcement_failed",
          (id) => limitOf({ ...db, ticketKey: { kid: 9, secret: randomBytes(32) } }, id),
        ],
        [
          "rls_enforcement_failed",
          (id) => call(db, id, "select app.enter($1, $2), app.enter($3, $2)", [foreign(id)], Nothing),
        ],
        ["22012", (id) => call(db, id, "select app.enter($1, $2), 1 / 0", [], Nothing, { timeoutMs: 5_000 })],
        [
          "57014",
          (id) => call(db, id, "select app.enter($1, $2), pg_sleep(5)", [], Nothing, { timeoutMs: 20 }),
        ],
        [
          "23", // what DOMException calls a TimeoutError
          (id) =>
            call(db, id, "select app.enter($1, $2), pg_sleep(0.2)", [], Nothing, {
              signal: AbortSignal.timeout(20),
            }),
        ],
      ];
      const expected = { calls: 0, refusals: 0 };
      const round = async (step: number) => {
        const tenant = tenants[step % 2]!;
        const [code, disturb] = disturbances[Math.floor(step / 2) % disturbances.length]!;
        const [before, error, after] = await Promise.all([
          limitOf(db, tenant.id, step % 3 === 0 ? { timeoutMs: 5_000 } : {}),
          disturb(tenant.id).catch((caught: unknown) => caught),
          limitOf(db, foreign(tenant.id)),
        ]);
        expect([before, after]).toEqual([tenant.limit, tenants[(step + 1) % 2]!.limit]);
        expect(String((error as { code?: unknown }).code), String(error)).toBe(code);
        if (error instanceof AppError && code === "rls_enforcement_failed") expected.refusals += 1;
        const left = "coalesce(current_setting('app.tenant', true), '') || session_user || current_user";
        const [seen] = await systemCall(db, `select ${left} as left`, [], z.object({ left: z.string() }));
        expect(seen!.left).toBe("holdfast_serviceholdfast_service");
        expected.calls += 3;
      };
      for (let step = 0; step < 4 * disturbances.length; step += 1) await round(step);
      expect(refusals).toBe(expected.refusals);
      expect(refusals).toBe(12);
      expect(expected.calls).toBe(96);
    });

    test.each([
      ["worker", "holdfast_worker"],
      ["db:migrate", "holdfast_admin"],
    ])("is what npm run %s says not to connect through", async (script, login) => {
      const address = new URL(url());
      address.username = login;
      const { code, stdout, stderr } = await run("npm", ["run", "--silent", script], {
        ENVIRONMENT: "development",
        DATABASE_URL: address.href,
        TASKS_DATABASE_URL: database.url("holdfast_service"),
        METRICS_PORT: "0",
        TICKET_KEY: TEST_TICKET_KEY.secret.toString("base64"),
      }).ended;
      expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: "" });
      expect(stderr).toMatch(/^config_invalid: .*pooler.*unsupported startup parameter/m);
      expect(stderr).toMatch(/^Connect to PostgreSQL itself /m);
      expect(stderr).not.toMatch(/^ +at /m);
    });

    test("lets npm run api say what to do, and serve when it is done", async () => {
      await bindTo("backend");
      const secret = randomBytes(32);
      const api = () =>
        run("npm", ["run", "--silent", "api"], {
          ENVIRONMENT: "development",
          DATABASE_URL: url(),
          HTTP_PORT: "0",
          TICKET_KEY: TEST_TICKET_KEY.secret.toString("base64"),
          JWT_SECRET_KEY: secret.toString("base64"),
        });
      const { code, stderr } = await api().ended;
      expect(code, stderr).toBe(1);
      expect(stderr).toMatch(/^config_invalid: .*pooler/m);
      const statement = /select \* from ops\.ticket_key_set.*;/.exec(stderr)![0];
      await database.ops.query(statement.replace("…", "PgBouncer is in front"));

      const serving = api();
      const [, address = ""] = await serving.seen(/"url":"(http:[^"]+)"[^\n]*"msg":"api_started"/);
      expect((await fetch(`${address}/readyz`)).status).toBe(200);
      for (const { id, limit } of tenants) {
        const token = await mintToken(
          { jwtSecretKey: secret },
          { tenantId: id, subject: "t", expiresIn: "5m" },
        );
        const answers = await Promise.all(
          Array.from({ length: 6 }, () =>
            fetch(`${address}/v1/budget`, { headers: { authorization: `Bearer ${token}` } }),
          ),
        );
        for (const answer of answers) {
          expect(await answer.json()).toMatchObject({ budgets: [{ limit_nanousd: String(limit) }] });
        }
      }
      process.kill(serving.pid, "SIGTERM");
      expect((await serving.ended).code).toBe(0);
    });
  },
);
