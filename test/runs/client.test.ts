import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { createPool } from "../../src/db.ts";
import { executeRun, GRACE_MS, type RunDeps, type Task, unsettledHandlers } from "../../src/runs.ts";
import { byKind, type Run } from "../../src/tasks.ts";
import { testDatabase } from "../support/database.ts";
import {
  addKind,
  addRun,
  depsOf,
  journal,
  observing,
  runRow,
  sql,
  tasksOf,
  until,
} from "../support/job_scene.ts";

const database = testDatabase();
const { log } = journal();
const layers: string[] = [];
const observe = observing({ jobTimeout: (_kind, layer) => void layers.push(layer) });
const Row = z.record(z.string(), z.unknown());
let tenantId: string;
let strangerId: string;
let kinds = 0;

beforeAll(async () => {
  await sql(
    database,
    `create function public.trap_for_ever() returns void language plpgsql as $$
     begin loop begin perform pg_sleep(30); exception when query_canceled then null; end; end loop; end $$`,
  );
  [tenantId, strangerId] = [(await database.addTenant()).tenantId, (await database.addTenant()).tenantId];
  await addRun(database, strangerId, await addKind(database, "of_a_stranger"));
});

type Outcome = Awaited<ReturnType<typeof runRow>> & { runId: string; tookMs: number };

/** Executes a run whose handler is `task`, and gives what became of it. */
async function execute(
  task: Task,
  given: Partial<RunDeps> & { timeoutSeconds?: number } = {},
): Promise<Outcome> {
  kinds += 1;
  const { timeoutSeconds = 30, ...some } = given;
  const kind = await addKind(database, `work_${kinds}`, { timeoutSeconds });
  const runId = await addRun(database, tenantId, kind);
  const deps = depsOf(database, "one", { log, observe, ...some });
  const began = performance.now();
  await executeRun(deps, { tenantId, runId }, byKind(tasksOf({ [kind]: task })));
  return { ...(await runRow(database, runId)), runId, tookMs: performance.now() - began };
}

/** A pool of one connection, so that every run has it after another. */
async function withOneConnection<T>(
  body: (deps: Pick<RunDeps, "work">, pid: () => Promise<number>) => Promise<T>,
) {
  const pool = createPool({
    connectionString: database.url("holdfast_service"),
    max: 1,
    application_name: "test_work",
  });
  const pid = async () => (await pool.query("select pg_backend_pid() as pid")).rows[0].pid as number;
  try {
    return await body({ work: { ...database.service, pool } }, pid);
  } finally {
    await pool.end();
  }
}

/** What may show that a session was used: a role, a tenant, a setting, an object of the session. */
const SESSION = `select current_user = session_user as is_login, coalesce(current_setting('app.tenant', true), '') as tenant,
    current_setting('row_security') as row_security, current_setting('statement_timeout') as statement_timeout,
    current_setting('idle_in_transaction_session_timeout') as idle_timeout, current_setting('lock_timeout') as lock_timeout,
    current_setting('work_mem') as work_mem, current_setting('search_path') as search_path,
    (select count(*)::int from pg_cursors) as cursors, (select count(*)::int from pg_prepared_statements) as prepared,
    (select count(*)::int from pg_listening_channels()) as channels`;

async function sessionOf(deps: Pick<RunDeps, "work">): Promise<Record<string, unknown>> {
  return (await deps.work!.pool.query(SESSION)).rows[0];
}

describe("the work transaction", () => {
  test("sees its own tenant's rows and nobody else's, as the tenant role", async () => {
    const run = await execute(async ({ client }) => {
      const { rows, rowCount } = await client.query(
        "select distinct tenant_id, current_user as role from tenant.job_runs",
      );
      const asked = await client.query(
        "select count(*)::int as n from tenant.job_runs where tenant_id = $1",
        [strangerId],
      );
      return { rows, rowCount, strangers: asked.rows };
    });
    expect(run).toMatchObject({
      state: "COMPLETED",
      result: {
        rows: [{ tenant_id: tenantId, role: "holdfast_tenant" }],
        rowCount: 1,
        strangers: [{ n: 0 }],
      },
    });
  });

  test("has limits of time that are those of the run", async () => {
    const run = await execute(async ({ client }) => {
      const { rows } = await client.query(
        `select s.name, s.setting::int from pg_settings as s
         where s.name in ('statement_timeout', 'idle_in_transaction_session_timeout', 'lock_timeout', 'transaction_timeout')`,
      );
      return Object.fromEntries(rows.map((row) => [row["name"], row["setting"]]));
    });
    const limits = run.result as Record<string, number>;
    expect(limits["statement_timeout"]).toBeGreaterThan(29_000);
    expect(limits["statement_timeout"]).toBeLessThanOrEqual(30_000);
    expect(limits).toMatchObject({ idle_in_transaction_session_timeout: 10_000, lock_timeout: 3_000 });
    if (limits["transaction_timeout"] !== undefined)
      expect(limits["transaction_timeout"]).toBe(limits["statement_timeout"]! + 1_000);
  });

  test("takes what the run has left, for each statement", async () => {
    const run = await execute(
      async ({ client }) => {
        await client.query("select 1");
        await sleep(1_500);
        await client.query("select pg_sleep(10)");
      },
      { timeoutSeconds: 3 },
    );
    expect(run).toMatchObject({ state: "FAILED", error_code: "job_timeout" });
    expect(run.tookMs).toBeLessThan(3_000 + GRACE_MS / 2);
  });

  test("is committed with the end of the run, and its effects with it", async () => {
    const seen: unknown[] = [];
    const run = await execute(async ({ client, runId, attempt }) => {
      await client.query("select 1");
      seen.push(await runRow(database, runId));
      const [row] = await client.call(
        "select $1::text as tenant, length($2) > 0 as ticket, current_user as role, $3::int as n",
        [7],
        Row,
      );
      const { rows } = await client.query("select current_user as role");
      return { row, rows, attempt };
    });
    expect(seen).toMatchObject([{ state: "RUNNING" }]);
    expect(run).toMatchObject({
      state: "COMPLETED",
      result: {
        row: { tenant: tenantId, ticket: true, role: "holdfast_service", n: 7 },
        rows: [{ role: "holdfast_tenant" }],
        attempt: 1,
      },
    });
  });

  test("is rolled back with what it did, when the handler fails after it", async () => {
    const cancelled = await addRun(database, tenantId, await addKind(database, "spared"));
    const discard = `select state from app.job_cancel($1, $2, run_id => $3, actor => 'test', reason => 'for a test')`;
    const failed = await execute(async ({ client }) => {
      await client.call(discard, [cancelled], Row);
      throw new Error("after all");
    });
    expect(failed).toMatchObject({ state: "FAILED", error_code: "internal_error" });
    expect(await runRow(database, cancelled)).toMatchObject({ state: "PENDING" });

    const completed = await execute(({ client }) => client.call(discard, [cancelled], Row));
    expect(completed).toMatchObject({ state: "COMPLETED" });
    expect(await runRow(database, cancelled)).toMatchObject({ state: "DEAD_LETTER" });
  });

  test("takes no connection for a task that does not use it", async () => {
    await withOneConnection(async ({ work }) => {
      await execute(async ({ client }) => Object.keys(client), { work });
      expect(work.pool.totalCount).toBe(0);
    });
  });

  test("neither does a call beside it have the worker's login, which sees all tenants", async () => {
    const Login = z.object({ login: z.string() });
    const who = "select session_user::text as login, $1::uuid as tenant_id, $2::text as ticket";
    expect(await execute(({ call }) => call(who, [], Login))).toMatchObject({
      result: [{ login: "holdfast_service" }],
    });
    const all = "select tenant_id::text as login from app.job_reap(), (select $1::uuid, $2::text) as unused";
    const refused = await execute(({ call }) => call(all, [], Login));
    expect(refused).toMatchObject({ state: "DEAD_LETTER", error_code: "sqlstate_42501" });
  });

  test("takes one statement at a time, in the order in which they were asked", async () => {
    const run = await execute(async ({ client }) => {
      const order: number[] = [];
      await Promise.all(
        [1, 2, 3].map(async (n) => {
          await client.query("select pg_sleep($1)", [0.03 * (3 - n)]);
          order.push(n);
        }),
      );
      return order;
    });
    expect(run.result).toEqual([1, 2, 3]);
  });

  test("goes on after an error from a savepoint, and not without one", async () => {
    const saved = await execute(async ({ client }) => {
      await client.query("savepoint here");
      await expect(client.query("select 1 / 0")).rejects.toMatchObject({ code: "22012" });
      await client.query("rollback to savepoint here");
      return (await client.query("select current_user as role, 1 as n")).rows;
    });
    expect(saved).toMatchObject({ state: "COMPLETED", result: [{ role: "holdfast_tenant", n: 1 }] });

    const unsaved = await execute(async ({ client }) => {
      await client.query("select 1 / 0").catch(() => {});
      return "as if nothing had been";
    });
    expect(unsaved).toMatchObject({ state: "DEAD_LETTER", error_code: "sqlstate_22012", result: null });
  });

  test("refuses statements of a run that has ended, and those that it did not wait for", async () => {
    let late: Run | undefined;
    const ignored: Promise<unknown>[] = [];
    const run = await execute(async (each) => {
      late = each;
      await each.client.query("select 1");
      ignored.push(each.client.query("select pg_sleep(0.2)"), each.client.query("select 2"));
      return "done";
    });
    expect(run).toMatchObject({ state: "COMPLETED" });
    await expect(late!.client.query("select 1")).rejects.toMatchObject({ code: "job_ended" });
    await expect(ignored[0]).resolves.toMatchObject({ rowCount: 1 });
    await expect(ignored[1]).rejects.toMatchObject({ code: "job_ended" });
  });

  test("leads nowhere else", async () => {
    await execute(async ({ client }) => {
      expect(Object.keys(client).sort()).toEqual(["call", "query"]);
      expect(Object.getPrototypeOf(client)).toBeNull();
      expect(Object.isFrozen(client)).toBe(true);
      const submitted: unknown[] = [];
      const trojan = { text: "select 1", submit: (connection: unknown) => submitted.push(connection) };
      const query = client.query as (text: unknown, values?: unknown) => Promise<{ rows: unknown }>;
      await expect(query(trojan)).rejects.toMatchObject({ code: "argument_invalid" });
      await expect(query("select 1", { length: 0 })).rejects.toMatchObject({ code: "argument_invalid" });
      const result = await client.query("select 1 as n");
      expect(result).toEqual({ rows: [{ n: 1 }], rowCount: 1 });
      expect(submitted).toEqual([]);
    });
  });
});

describe("a task that ends its transaction", () => {
  const lost = { state: "DEAD_LETTER", error_code: "job_transaction_lost", result: null };

  test.each([
    "commit",
    "rollback",
    "end",
    "abort",
    "commit and chain",
    "rollback and chain",
    "prepare transaction 'mine'",
  ])("by %s fails by name, and completes nothing", async (text) => {
    const run = await execute(async ({ client }) => {
      await client.query("select 1");
      await client.query(text).catch(() => {});
      await client.query("select 2").catch(() => {});
      return "done";
    });
    expect(run).toMatchObject(lost);
  });

  test("cannot begin another one, nor work outside of any", async () => {
    const run = await execute(async ({ client }) => {
      await client.query("select 1");
      await expect(client.query("commit")).rejects.toMatchObject({ code: "job_transaction_lost" });
      for (const text of ["begin", "set role holdfast_tenant", "select 1"]) {
        await expect(client.query(text)).rejects.toMatchObject({ code: "job_transaction_lost" });
      }
      return "done";
    });
    expect(run).toMatchObject(lost);
  });

  test("cannot put two statements into one", async () => {
    const run = await execute(({ client }) => client.query("select 1; commit; begin; select 2"));
    expect(run).toMatchObject({ state: "DEAD_LETTER", error_code: "sqlstate_42601" });
    const withValues = await execute(({ client }) => client.query("select $1::int; commit", [1]));
    expect(withValues).toMatchObject({ state: "DEAD_LETTER", error_code: "sqlstate_42601" });
  });
});

describe("hostile SQL reaches no other tenant", () => {
  const reads = [
    ["as it is", []],
    ["back in its login", ["reset role"]],
    ["as no role", ["set role none"]],
    ["with a session of its login", ["set session authorization holdfast_service"]],
    ["without row security", ["set local row_security = off"]],
    ["back in its login, without row security", ["reset role", "set row_security = off"]],
    ["back in its login, with row security", ["reset role", "set row_security = on"]],
    ["with another's seal", ["select set_config('app.tenant', '%s.' || repeat('0', 64), true)"]],
    [
      "with a search path of its own",
      ["select set_config('search_path', 'pg_temp, app, app_private', true)"],
    ],
  ] as const;

  const tables = ["tenant.job_runs", "app.job_runs", "tenant.findings", "app.tenants"];
  test.each(reads.flatMap(([how, statements]) => tables.map((from) => [how, from, statements] as const)))(
    "%s, from %s",
    async (_how, from, statements) => {
      const stolen = await execute(async ({ client }) => {
        for (const text of statements) await client.query(text.replace("%s", strangerId));
        const { rows } = await client.query(`select distinct tenant_id from ${from}`);
        return rows.map((row) => row["tenant_id"]);
      });
      if (stolen.state === "COMPLETED") expect([[], [tenantId]]).toContainEqual(stolen.result);
      else expect(stolen.error_code).toMatch(/^(sqlstate_42501|rls_enforcement_failed)$/);
    },
  );

  test.each(["holdfast_worker", "holdfast_owner", "holdfast_system", "holdfast_ops", "postgres"])(
    "and never becomes %s",
    async (role) => {
      for (const text of [
        `set role ${role}`,
        `set local role ${role}`,
        `set session authorization ${role}`,
      ]) {
        const run = await execute(async ({ client }) => {
          await client.query("reset role");
          await client.query(text);
        });
        expect(run.state, text).toBe("DEAD_LETTER");
        expect(run.error_code, text).toMatch(/^sqlstate_(42501|22023)$/);
      }
    },
  );

  test("nor its functions: the login executes those with a ticket alone", async () => {
    for (const text of [
      "select app.job_claim('x', array[]::uuid[], array[]::uuid[])",
      "select app.schedule_tick()",
      "select app.job_reap()",
      "select app.worker_beat('x', 'x', 'x', 1, 'x', '{}', 1, '{}', '{}', '{}')",
      "select app.job_heartbeat($1::uuid, 'x', $1::uuid, 1)",
    ]) {
      const run = await execute(async ({ client }) => {
        await client.query("reset role");
        await client.query(text, text.includes("$1") ? [strangerId] : []);
      });
      expect(run.error_code, text).toMatch(/^(sqlstate_42501|rls_enforcement_failed)$/);
    }
  });

  test("nor another tenant by a ticket of its own", async () => {
    const run = await execute(async ({ client }) => {
      const [mine] = await client.call("select $2::text as ticket where $1::text <> ''", [], Row);
      await client.query("reset role");
      await client.query("select app.enter($1, $2)", [strangerId, mine!["ticket"]]);
    });
    expect(run).toMatchObject({ state: "FAILED", error_code: "rls_enforcement_failed" });
  });

  test("and leaves nothing in its session, whatever it set", async () => {
    await withOneConnection(async (deps, pid) => {
      const [fresh, before] = [await sessionOf(deps), await pid()];
      const leaving = [
        "set role holdfast_tenant",
        "set session authorization holdfast_service",
        "set statement_timeout = 0",
        "set idle_in_transaction_session_timeout = 0",
        "set lock_timeout = 0",
        "set row_security = on",
        "set search_path = app, app_private",
        "set work_mem = '7MB'",
        "select set_config('app.tenant', 'x', false)",
        "prepare mine as select 1",
        "declare mine cursor with hold for select generate_series(1, 1000)",
        "listen mine",
      ];
      for (const text of leaving) {
        const run = await execute(({ client }) => client.query(text), deps);
        expect([run.state, run.error_code], text).toEqual(["COMPLETED", null]);
        expect(await sessionOf(deps), text).toEqual(fresh);
      }
      const all = await execute(async ({ client }) => {
        for (const text of leaving) await client.query(text);
      }, deps);
      expect(all).toMatchObject({ state: "COMPLETED" });
      expect(await sessionOf(deps)).toEqual(fresh);
      // It is the very connection: it was cleaned, not replaced.
      expect(await pid()).toBe(before);
    });
  });

  test("and ends with the limits of the end, whatever it set", async () => {
    const run = await execute(async ({ client }) => {
      await client.query("set local statement_timeout = 1");
      await client.query("set local work_mem = '64kB'").catch(() => {});
    });
    expect(run).toMatchObject({ state: "COMPLETED" });
  });
});

describe("after a failure the connection is not used again", () => {
  const failures: Record<string, [Task, Partial<RunDeps> & { timeoutSeconds?: number }]> = {
    "an error of the task": [
      async ({ client }) => {
        await client.query("select 1");
        throw new Error("no");
      },
      {},
    ],
    "an error of a statement": [({ client }) => client.query("select 1 / 0"), {}],
    "an end of the transaction": [({ client }) => client.query("commit"), {}],
    "a result that cannot be stored": [
      async ({ client }) => {
        await client.query("select 1");
        return "\0";
      },
      {},
    ],
    "a timeout in a statement": [({ client }) => client.query("select pg_sleep(30)"), { timeoutSeconds: 1 }],
    "a timeout between statements": [
      async ({ client, signal }) => {
        await client.query("select 1");
        await sleep(30_000, undefined, { signal });
      },
      { timeoutSeconds: 1 },
    ],
    "a statement that traps its cancellation": [
      ({ client }) => client.query("select public.trap_for_ever()"),
      { timeoutSeconds: 1 },
    ],
    "a cursor that was left open": [
      async ({ client }) => {
        await client.query("declare left_open cursor with hold for select generate_series(1, 100000)");
        throw new Error("left open");
      },
      {},
    ],
  };

  test.each(Object.entries(failures))("%s", { timeout: 20_000 }, async (_what, [task, given]) => {
    await withOneConnection(async (deps, pid) => {
      const [fresh, before] = [await sessionOf(deps), await pid()];
      const run = await execute(task, { ...deps, ...given });
      expect(run.state).not.toBe("COMPLETED");
      expect(run.tookMs).toBeLessThan((given.timeoutSeconds ?? 0) * 1_000 + GRACE_MS + 1_000);
      expect(await sessionOf(deps)).toEqual(fresh);
      expect(await pid()).not.toBe(before);
      const gone = "select 1 as one from pg_stat_activity where pid = $1";
      await until(async () => (await sql(database, gone, [before])).length === 0, 5_000);
    });
  });
});

describe("a transaction that stands idle", () => {
  test("is ended by the server after 10 s, and the attempt fails by its name", {
    timeout: 30_000,
  }, async () => {
    const run = await execute(async ({ client }) => {
      await client.query("select 1");
      await sleep(11_000);
      return (await client.query("select 2")).rows;
    });
    expect(run).toMatchObject({ state: "FAILED", error_code: "sqlstate_25P03" });
    const idle = await execute(async ({ client }) => {
      await client.query("select 1");
      await sleep(11_000);
      return "done, and never asked again";
    });
    expect(idle).toMatchObject({ state: "FAILED", error_code: "sqlstate_25P03" });
  });

  test("keeps no lock of a handler that never ends", { timeout: 20_000 }, async () => {
    const held = Promise.withResolvers<void>();
    const kind = await addKind(database, "holding", { timeoutSeconds: 1 });
    const victim = await addRun(database, tenantId, kind);
    const run = await execute(
      async ({ client }) => {
        const text =
          "select state from app.job_cancel($1, $2, run_id => $3, actor => 'test', reason => 'for a test')";
        await client.call(text, [victim], Row);
        await held.promise;
      },
      { timeoutSeconds: 1 },
    );
    expect(run).toMatchObject({ state: "FAILED", error_code: "job_timeout" });
    expect(layers.at(-1)).toBe("grace");
    expect(
      await sql(database, "select state from app.job_runs where id = $1 for update nowait", [victim]),
    ).toEqual([{ state: "PENDING" }]);
    held.resolve();
    await until(() => unsettledHandlers() === 0);
  });
});

describe("the fence", () => {
  test("holds for what was done in a work transaction", async () => {
    const spared = await addRun(database, tenantId, await addKind(database, "spared_again"));
    const run = await execute(async ({ client, runId }) => {
      const text =
        "select state from app.job_cancel($1, $2, run_id => $3, actor => 'test', reason => 'for a test')";
      await client.call(text, [spared], Row);
      await sql(database, "update app.job_runs set attempt = attempt + 1, worker = 'another' where id = $1", [
        runId,
      ]);
      return "too late";
    });
    expect(run).toMatchObject({ state: "RUNNING", attempt: 2, result: null });
    expect(await runRow(database, spared)).toMatchObject({ state: "PENDING" });
  });
});
