import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { describe, expect, type TestContext, test } from "vitest";
import { presume, reserve } from "../src/budgets.ts";
import { createPool } from "../src/db.ts";
import { type CohortTick, jobClaim, scheduleTick } from "../src/jobs.ts";
import { budgetedFetch, type Llm } from "../src/llm.ts";
import type { Run, Task } from "../src/tasks.ts";
import { drainMsFor, startWorker, type Worker, type WorkerOptions } from "../src/worker.ts";
import { TEST_TICKET_KEY } from "./support/constants.ts";
import { type TestDatabase, testDatabase } from "./support/database.ts";
import {
  addKind,
  addRun,
  history,
  journal,
  type Line,
  observing,
  runRow,
  sql,
  tasksOf,
  transitionsTold,
  until,
} from "./support/job_scene.ts";

const WORDED = {
  narrated_by: "template",
  fallback_reason: "no_findings",
  provider: "test",
  model: "test",
  items: [],
};

type Scene = { worker: Worker; lines: Line[]; messages(runId?: string): string[]; fatal: unknown[] };

/** A test with a database of its own, for a worker takes every token that it finds. */
function alone(title: string, body: (database: TestDatabase, context: TestContext) => Promise<void>): void {
  describe.concurrent(title, () => {
    const database = testDatabase();
    test("on a database of its own", { timeout: 60_000 }, (context) => body(database, context));
  });
}

/** A worker in this process, on `database`, which has ended when the test ends. */
async function work(
  database: TestDatabase,
  { onTestFinished }: TestContext,
  handlers: Record<string, Task>,
  options: Partial<WorkerOptions> = {},
): Promise<Scene> {
  const { log, lines, messages } = journal();
  const fatal: unknown[] = [];
  const worker = await startWorker({
    workerUrl: database.url("holdfast_worker"),
    db: database.worker,
    work: database.service,
    tasks: tasksOf({ detection: async () => ({}), analysis: async () => WORDED, ...handlers }),
    log,
    concurrency: 4,
    onFatal: (error) => void fatal.push(error),
    ...options,
  });
  onTestFinished(() => worker.stop());
  return { worker, lines, messages, fatal };
}

async function count(database: TestDatabase, from: string): Promise<number> {
  return (await sql<{ n: number }>(database, `select count(*)::int as n from ${from}`))[0]!.n;
}

/** A tenant without cost sources has two runs a turn: the detectors', and the analysis after them. */
const PER_TURN = 2;
/** Rows of the schedule: three cohorts of 256. */
const SHARDS = 768;
const ended = (database: TestDatabase) =>
  count(database, "app.job_runs where state in ('COMPLETED', 'DEAD_LETTER')");
const tokens = (database: TestDatabase) => count(database, "graphile_worker.jobs");

alone("what is due runs once", async (database, context) => {
  const tiers = ["HIGH_VALUE", "HIGH_VALUE", "ACTIVE", "ACTIVE", "DORMANT"];
  const tenantIds = await Promise.all(
    tiers.map(async (tier) => (await database.addTenant({ tier })).tenantId),
  );

  // The first tick is the worker's own, at its start.
  const { told, transition } = transitionsTold();
  let ticked: CohortTick[] = [];
  const observe = observing({ transition, tick: (_seconds, made) => void ticked.push(...made) });
  const { worker, messages } = await work(database, context, {}, { observe });
  await until(async () => (await ended(database)) === 5 * PER_TURN);
  const runs = await sql(
    database,
    "select tenant_id, state, attempt, worker from app.job_runs order by tenant_id",
  );
  expect([...new Set(runs.map((run) => run["tenant_id"]))]).toEqual([...tenantIds].sort());
  for (const run of runs) expect(run).toMatchObject({ state: "COMPLETED", attempt: 1 });
  // The run's row leads to the process and to its locks in the queue.
  expect(runs[0]!["worker"]).toMatch(new RegExp(`:${process.pid}:pool-[0-9a-f]+$`));
  expect(messages().filter((message) => message === "job_completed")).toHaveLength(5 * PER_TURN);

  expect(await worker.tickNow()).toMatchObject({ runs: 0 });
  const passed = () => ticked.map((each) => each.overlapped + each.duplicates).filter((n) => n > 0);
  expect(passed()).toEqual([]);
  // The analysis of each turn was made by the end of the run before it, and by no tick.
  await until(() => told["RUNNING COMPLETED"] === 5 * PER_TURN);
  expect(told).toEqual({
    ...{ " PENDING": 5, "PENDING RUNNING": 5 * PER_TURN, "RUNNING COMPLETED": 5 * PER_TURN },
  });
  // A clock that goes back, or a schedule that is set to now by hand, makes no second run of the same turn.
  await sql(database, "update app.schedules set next_run_at = now()");
  const { runs: again, shards } = await worker.tickNow();
  expect(again).toBe(0);
  expect(shards).toBeGreaterThanOrEqual(SHARDS);
  const duplicates = () => ticked.reduce((sum, each) => sum + each.duplicates, 0);
  expect(duplicates()).toBe(5);
  ticked = [];
  await sql(database, "update app.schedules set next_run_at = now()");
  await worker.tickNow();
  expect(duplicates()).toBe(5);
  expect(told[" PENDING"]).toBe(5);
  expect(await count(database, "app.job_runs")).toBe(5 * PER_TURN);
  await until(async () => (await tokens(database)) === 0);
});

alone("any number may tick at once", async (database) => {
  await sql(
    database,
    `insert into app.tenants (name, tier)
     select 'many ' || n, (array['HIGH_VALUE', 'ACTIVE', 'DORMANT'])[1 + n % 3]
     from generate_series(1, 300) as n`,
  );
  const ticks = await Promise.all(Array.from({ length: 24 }, () => scheduleTick(database.worker, 20)));

  const sum = (key: "runs" | "shards") => ticks.flat().reduce((total, tick) => total + tick[key], 0);
  expect(sum("shards")).toBeGreaterThanOrEqual(SHARDS); // one may have come due again meanwhile
  expect(sum("runs")).toBe(300);
  expect(await count(database, "(select distinct tenant_id from app.job_runs) as t")).toBe(300);
  expect(await tokens(database)).toBe(300);
  const [{ deadlocks }] = (await sql(
    database,
    "select deadlocks::int from pg_stat_database where datname = current_database()",
  )) as [{ deadlocks: number }];
  expect(deadlocks).toBe(0);
});

alone("a tick that met a deadlock is counted and tried again", async (database, context) => {
  await database.addTenant();
  await sql(
    database,
    `create sequence public.met;
     create function public.deadlock() returns trigger language plpgsql security definer as $$
     begin
       if current_query() like '%app.schedule_tick%' and nextval('public.met') <= 2 then
         raise exception using errcode = '40P01', message = 'deadlock detected';
       end if;
       return null;
     end $$;
     create trigger deadlock before update on app.schedules
       for each statement execute function public.deadlock();`,
  );
  let counted = 0;
  const observe = observing({
    schedulerDeadlock: () => {
      counted += 1;
    },
  });
  const began = performance.now();
  const { lines } = await work(database, context, {}, { observe });
  await until(async () => (await ended(database)) === PER_TURN);

  expect(performance.now() - began).toBeGreaterThan(2_900);
  expect(counted).toBe(2);
  expect(lines.filter((line) => line.msg === "scheduler_deadlock_detected")).toEqual([
    expect.objectContaining({ retry_in_ms: 1_000 }),
    expect.objectContaining({ retry_in_ms: 2_000 }),
  ]);
  expect(lines.filter((line) => line.msg === "loop_failed")).toEqual([]);
});

alone("a loop that fails is logged, and goes on", async (database, context) => {
  await database.addTenant();
  await sql(database, "revoke execute on function app.schedule_tick from holdfast_worker");
  const { worker, lines, fatal } = await work(database, context, {}, { tickEveryMs: 100 });
  await until(() => lines.filter((line) => line.msg === "loop_failed").length >= 3);
  expect(lines.find((line) => line.msg === "loop_failed")).toMatchObject({
    loop: "schedule_tick",
    err: { code: "42501" },
  });
  await expect(worker.tickNow()).rejects.toMatchObject({ code: "42501" });

  await sql(database, "grant execute on function app.schedule_tick to holdfast_worker");
  await until(async () => (await ended(database)) === PER_TURN);
  expect(fatal).toEqual([]);
});

alone("a failed run comes back by its token, when it is due", async (database, context) => {
  const kind = await addKind(database, "flaky", { maxRetries: 3, backoffMs: 200 });
  const runId = await addRun(database, (await database.addTenant()).tenantId, kind);
  await work(database, context, {
    flaky: async ({ attempt }) => {
      if (attempt < 3) throw new Error("not yet");
      return { attempt };
    },
  });
  await until(async () => (await runRow(database, runId)).state === "COMPLETED");
  expect(await runRow(database, runId)).toMatchObject({
    attempt: 3,
    failure_count: 2,
    result: { attempt: 3 },
  });
});

alone("a token whose run is gone is dropped at once, with a line at debug", async (database, context) => {
  const { tenantId } = await database.addTenant();
  const { lines, messages } = await work(database, context, {});
  await until(async () => (await ended(database)) === PER_TURN);

  const runId = randomUUID();
  await sql(
    database,
    `select graphile_worker.add_job('run', json_build_object('tenant_id', $1::text, 'run_id', $2::text),
       max_attempts => 5)`,
    [tenantId, runId],
  );
  await until(() => messages(runId).length > 0);
  await until(async () => (await tokens(database)) === 0, 2_000);
  expect(lines.filter((line) => line["run_id"] === runId)).toEqual([
    expect.objectContaining({ level: 20, msg: "job_token_stale", tenant_id: tenantId }),
  ]);
  expect(lines.filter((line) => Number(line["level"]) >= 50)).toEqual([]);
});

alone("a queue that cannot go on stops the worker, which says so", async (database, context) => {
  const { tenantId } = await database.addTenant();
  const kind = await addKind(database, "once");
  const { fatal, messages } = await work(database, context, {
    once: async () => "done",
  });
  await until(async () => (await ended(database)) === PER_TURN);
  await until(async () => (await tokens(database)) === 0);

  await sql(database, "revoke delete on graphile_worker._private_jobs from holdfast_worker");
  const runId = await addRun(database, tenantId, kind);
  await until(() => fatal.length > 0);
  expect(fatal).toEqual([expect.objectContaining({ code: "42501" })]);
  expect(messages().slice(-1)).toEqual(["worker_stopped"]);
  expect(await runRow(database, runId)).toMatchObject({ state: "COMPLETED", result: "done" });
});

/** Sends `payloads` on `channel` as holdfast_service, which has no right to the queue: NOTIFY needs none. */
async function forge(database: TestDatabase, channel: string, payloads: string[]): Promise<void> {
  await database.service.pool.query("select pg_notify($1, payload) from unnest($2::text[]) as payload", [
    channel,
    payloads,
  ]);
}

/** Longer than a worker waits before it reads the list of migrations. */
const LOOKED_MS = 1_500;

alone("a notice is not believed: anybody can send one", async (database, context) => {
  const { tenantId } = await database.addTenant();
  const kind = await addKind(database, "once");
  const tasks = { once: async () => "done" };
  const { fatal, lines } = await work(database, context, tasks);
  await until(async () => (await ended(database)) === PER_TURN);
  const breaking = { breaking: true, migrationNumber: 99 };
  const huge = { ...breaking, padding: "x".repeat(7_900) };
  const garbage = ["", "{", "null", "[]", "7", '"x"', "\u{1F4A5}", '{"breaking":"yes"}', '{"breaking":{}}'];
  await forge(database, "worker:migrate", [JSON.stringify(breaking), JSON.stringify(huge), ...garbage]);
  await forge(
    database,
    "worker:migrate",
    Array.from({ length: 5_000 }, (_, n) => JSON.stringify({ breaking: true, migrationNumber: n })),
  );
  const counts = [
    "1e999",
    "-1e999",
    "1e308",
    "1e-300",
    "0",
    "-1",
    "null",
    "true",
    "{}",
    "[1]",
    '"0x1"',
    '" "',
  ];
  await forge(database, "jobs:insert", [...garbage, ...counts.map((n) => `{"count":${n}}`)]);
  await sleep(LOOKED_MS);

  const runId = await addRun(database, tenantId, kind);
  const began = performance.now();
  await until(async () => (await runRow(database, runId)).state === "COMPLETED");
  expect(performance.now() - began).toBeLessThan(1_000);
  expect(fatal).toEqual([]);
  expect(lines.filter((line) => Number(line["level"]) >= 50)).toEqual([]);
});

alone("a count that is no number keeps no token waiting", async (database, context) => {
  const { tenantId } = await database.addTenant();
  const kind = await addKind(database, "once");
  await work(database, context, { once: async () => "done" });
  await until(async () => (await tokens(database)) === 0);
  for (let turn = 0; turn < 10; turn += 1) {
    // The first makes the queue fetch, so that it pauses; the next ones fall into its pause.
    await forge(database, "jobs:insert", ['{"count":1}']);
    await sleep(20);
    await forge(database, "jobs:insert", ['{"count":"0x1"}']);
    const runId = await addRun(database, tenantId, kind);
    const began = performance.now();
    await until(async () => (await runRow(database, runId)).state === "COMPLETED");
    expect(performance.now() - began, `turn ${turn}`).toBeLessThan(1_000);
    await until(async () => (await tokens(database)) === 0);
  }
});

alone("a breaking migration of the queue's schema stops the worker", async (database, context) => {
  await database.addTenant();
  const { fatal, lines, messages } = await work(database, context, {});
  await until(async () => (await ended(database)) === PER_TURN);
  const migrated = async (id: number, breaking: boolean) => {
    await sql(database, "insert into graphile_worker.migrations (id, breaking) values ($1, $2)", [
      id,
      breaking,
    ]);
    await forge(database, "worker:migrate", [JSON.stringify({ migrationNumber: id, breaking })]);
  };

  // One that older programs can work with is none of its business.
  await migrated(98, false);
  await sleep(LOOKED_MS);
  expect(fatal).toEqual([]);

  await migrated(99, true);
  await until(() => fatal.length > 0);
  expect(fatal).toEqual([expect.objectContaining({ message: "the queue stopped by itself" })]);
  expect(lines.filter((line) => line.msg === "queue_migrated_beyond")).toMatchObject([
    { level: 50, last: 99 },
  ]);
  expect(messages().slice(-1)).toEqual(["worker_stopped"]);
});

alone("a list of migrations that cannot be read is read again, now and then", async (database, context) => {
  await database.addTenant();
  const { fatal, messages } = await work(database, context, {});
  const stopped = await work(database, context, {});
  await until(async () => (await ended(database)) === PER_TURN);
  await sql(database, "revoke select on graphile_worker.migrations from holdfast_worker");
  await sql(database, "insert into graphile_worker.migrations (id, breaking) values (99, true)");
  const many = Array.from({ length: 1_000 }, (_, n) => String(n));
  await forge(database, "worker:migrate", many);
  const unread = (told: string[]) => told.filter((message) => message === "queue_migrations_unread").length;
  await until(() => unread(messages()) > 0 && unread(stopped.messages()) > 0);
  expect(fatal).toEqual([]);

  // A worker that has stopped reads it no more.
  await stopped.worker.stop();
  await sleep(LOOKED_MS);
  expect(stopped.messages().at(-1)).toBe("worker_stopped");
  // A thousand notices are one reason to look.
  expect(unread(messages())).toBeLessThan(5);

  await sql(database, "grant select on graphile_worker.migrations to holdfast_worker");
  await until(() => fatal.length > 0);
  expect(stopped.fatal).toEqual([]);
});

alone("a stop is bounded, even when the database does not answer", async (database, context) => {
  const begun = Promise.withResolvers<void>();
  const nap = async ({ signal }: Run) => {
    begun.resolve();
    await sleep(60_000, undefined, { signal });
  };
  const kind = await addKind(database, "nap");
  const { worker, messages } = await work(database, context, { nap }, { drainMs: 100 });
  await addRun(database, (await database.addTenant()).tenantId, kind);
  await begun.promise;

  const lock = await database.superuser.connect();
  await lock.query("begin; lock table app.job_runs, graphile_worker._private_jobs");
  const began = performance.now();
  await worker.stop();
  await lock.query("rollback");
  lock.release();
  expect(performance.now() - began).toBeLessThan(14_000);
  expect(messages()).toContain("worker_stop_forced");
});

alone("the queue's schema must be there, and of this version", async (database, context) => {
  await sql(
    database,
    "delete from graphile_worker.migrations where id = (select max(id) from graphile_worker.migrations)",
  );
  const refusal = { code: "config_invalid", hint: "Run: npm run db:migrate" };
  await expect(work(database, context, {})).rejects.toMatchObject(refusal);
  await sql(database, "alter table graphile_worker.migrations drop column breaking");
  await expect(work(database, context, {})).rejects.toMatchObject(refusal);
  await sql(database, "drop schema graphile_worker cascade");
  await expect(work(database, context, {})).rejects.toMatchObject(refusal);
});

alone("the worker may use the queue, and change nothing of its schema", async (database, context) => {
  const grants = readFileSync(join(import.meta.dirname, "../sql/worker_grants.sql"), "utf8");
  const policies = `select oid::int, polrelid::regclass::text as table, polname
     from pg_policy where polrelid::regclass::text like 'graphile_worker.%' order by 2`;
  const before = await sql(database, policies);
  expect(before.map((policy) => [policy["table"], policy["polname"]])).toEqual([
    ["graphile_worker._private_job_queues", "worker_all"],
    ["graphile_worker._private_jobs", "worker_all"],
    ["graphile_worker._private_known_crontabs", "worker_all"],
    ["graphile_worker._private_tasks", "worker_all"],
  ]);
  await sql(database, `set role holdfast_owner; ${grants}; reset role;`);
  expect(await sql(database, policies)).toEqual(before);

  // Row security is off for the login until it enters: what it cannot see is refused, never missing.
  await expect(database.worker.pool.query("select from graphile_worker._private_jobs")).rejects.toMatchObject(
    {
      code: "42501",
      routine: "check_enable_rls",
    },
  );
  const client = new pg.Client({
    connectionString: database.url("holdfast_worker"),
    options: "-c row_security=on",
  });
  await client.connect();
  context.onTestFinished(() => client.end());
  await client.query("select from graphile_worker._private_jobs");
  for (const refused of [
    "truncate graphile_worker._private_jobs",
    "create table graphile_worker.mine ()",
    "alter table graphile_worker._private_jobs disable row level security",
    "insert into graphile_worker.migrations (id) values (99)",
    "drop policy worker_all on graphile_worker._private_jobs",
  ]) {
    await expect(client.query(refused), refused).rejects.toMatchObject({ code: "42501" });
  }
});

/** A worker in a process of its own; `lines` is its log so far. */
function spawnWorker(database: TestDatabase, { onTestFinished }: TestContext, drainMs = 10_000) {
  const { kid, secret } = TEST_TICKET_KEY;
  const given = {
    workerUrl: database.url("holdfast_worker"),
    kid,
    secret: secret.toString("base64"),
    drainMs,
  };
  const child: ChildProcess = spawn(
    process.execPath,
    [join(import.meta.dirname, "support/worker_process.ts")],
    {
      env: { ...process.env, TEST_WORKER: JSON.stringify(given) },
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  onTestFinished(() => void child.kill("SIGKILL"));
  const lines: Line[] = [];
  createInterface({ input: child.stdout! }).on("line", (line) => lines.push(JSON.parse(line)));
  return { child, lines };
}

/** Ends a process by a signal, and gives how: its exit code, or the signal. */
async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | string> {
  const exit = once(child, "exit");
  child.kill(signal);
  const [code, by] = await exit;
  return code ?? by;
}

alone("a worker that is killed loses no run", async (database, context) => {
  const { tenantId } = await database.addTenant();
  await addKind(database, "nap", { timeoutSeconds: 120 });
  const naps = [];
  for (let nap = 0; nap < 4; nap += 1) naps.push(await addRun(database, tenantId, "nap", { ms: 90_000 }));

  const { child, lines } = spawnWorker(database, context);
  await until(
    () => lines.filter((line) => line.msg === "job_claimed" && line["kind"] === "nap").length === 2,
    15_000,
  );
  expect(await end(child, "SIGKILL")).toBe("SIGKILL");
  const killedAt = performance.now();
  const locked = "graphile_worker.jobs where locked_at is not null and task_identifier = 'run'";
  expect(await count(database, locked)).toBeGreaterThanOrEqual(2);

  // Two were running, one more was locked but not begun: all come back, in seconds, not in four hours.
  const { lines: after } = await work(database, context, {
    nap: async () => "slept",
  });
  const napping = "app.job_runs where kind = 'nap' and state <> 'COMPLETED'";
  await until(async () => (await count(database, napping)) === 0, 45_000);
  expect(performance.now() - killedAt).toBeLessThan(30_000);

  const rows = await Promise.all(naps.map((id) => runRow(database, id)));
  expect(rows.map((row) => row.crash_count).sort()).toEqual([0, 0, 1, 1]);
  for (const row of rows)
    expect(row).toMatchObject({ result: "slept", attempt: 1 + row.crash_count, failure_count: 0 });
  for (const [index, id] of naps.entries()) {
    const lost = rows[index]!.crash_count === 1 ? ["RUNNING", "FAILED"] : [];
    expect(await history(database, id)).toEqual(["PENDING", ...lost, "RUNNING", "COMPLETED"]);
  }
  const told = after.filter((line) => line.msg === "job_failed");
  const lost = naps.filter((_, index) => rows[index]!.crash_count === 1);
  expect(told.map((line) => line["run_id"]).sort()).toEqual(lost.sort());
  for (const line of told)
    expect(line).toMatchObject({ level: 40, tenant_id: tenantId, error_code: "worker_lost" });
});

alone("what the loops change is logged, a line for each run and hold", async (database, context) => {
  const { tenantId } = await database.addTenant();
  await sql(database, "update app.schedules set next_run_at = 'infinity'");
  const kind = await addKind(database, "gone");
  const lost = await addRun(database, tenantId, kind);
  const poison = await addRun(database, tenantId, kind);
  for (const [runId, crashes] of [
    [lost, 0],
    [poison, 2],
  ] as const) {
    await jobClaim(database.worker, "gone", [{ tenantId, runId }]);
    await sql(
      database,
      "update app.job_runs set lease_until = now() - interval '1 second', crash_count = $2 where id = $1",
      [runId, crashes],
    );
  }
  const untold = await addRun(database, tenantId, kind);
  const late = "now() - interval '1 minute'";
  await sql(database, `update app.job_runs set available_at = ${late}, token_at = ${late} where id = $1`, [
    untold,
  ]);
  await sql(database, "truncate graphile_worker._private_jobs");
  const hold = await holdOf(database, tenantId, lost);
  await sql(database, `update app.llm_reservations set expires_at = ${late}`);
  const lenient = (await database.addTenant()).tenantId;
  await sql(
    database,
    "update app.tenants set presumed_policy = 'release_after', presumed_after = '1 minute' where tenant_id = $1",
    [lenient],
  );
  const asked = {
    provider: "test",
    model: "m",
    inputTokensBound: 1,
    maxOutputTokens: 1,
    idempotencyKey: "k",
  };
  const { id: given } = await reserve(database.worker, lenient, asked);
  await presume(database.worker, lenient, given, "test");
  await sql(database, `update app.llm_reservations set presumed_at = ${late} where id = $1`, [given]);

  const tasks = { gone: async () => "back" };
  const { told: changes, transition } = transitionsTold();
  const { lines } = await work(database, context, tasks, { observe: observing({ transition }) });
  await until(async () => (await ended(database)) === 3);
  await until(() => lines.some((line) => line.msg === "llm_presumed"));
  await until(() => lines.some((line) => line.msg === "llm_presumed_resolved"));
  const told = (msg: string) => lines.filter((line) => line.msg === msg);
  const [warn, error] = [40, 50];
  expect(told("job_failed")).toMatchObject([
    { level: warn, tenant_id: tenantId, run_id: lost, error_code: "worker_lost" },
  ]);
  expect(told("job_dead_letter")).toMatchObject([
    { level: error, tenant_id: tenantId, run_id: poison, error_code: "poison" },
  ]);
  expect(told("llm_presumed")).toMatchObject([
    { level: warn, tenant_id: tenantId, run_id: lost, reservation_id: hold, reason: "expired" },
  ]);
  expect(told("llm_presumed_resolved")).toMatchObject([
    { level: warn, tenant_id: lenient, reservation_id: given, status: "WRITTEN_OFF" },
  ]);
  expect(told("tokens_repaired")).toMatchObject([{ level: 30, count: 1 }]);
  await until(() => changes["RUNNING COMPLETED"] === 2);
  expect(changes).toEqual({
    ...{ "RUNNING FAILED": 1, "RUNNING DEAD_LETTER": 1 }, // by the reaper
    ...{ "PENDING RUNNING": 1, "FAILED RUNNING": 1, "RUNNING COMPLETED": 2 },
  });
});

alone(
  "a stop gives back the tokens that wait in the process, without an error",
  async (database, context) => {
    const { tenantId } = await database.addTenant();
    const nap = await addKind(database, "nap");
    const napping = Promise.withResolvers<void>();
    const { worker, lines } = await work(
      database,
      context,
      {
        nap: async () => {
          napping.resolve();
          await sleep(300);
        },
      },
      { concurrency: 1 },
    );
    for (let n = 0; n < 6; n += 1) await addRun(database, tenantId, nap);
    await napping.promise;
    await until(async () => (await count(database, "graphile_worker.jobs where locked_by is not null")) > 1);
    await worker.stop();
    expect(lines.filter((line) => Number(line["level"]) >= 50)).toEqual([]);
    expect(await count(database, "graphile_worker.jobs where locked_by is not null")).toBe(0);
    expect(await count(database, "app.job_runs where state = 'RUNNING'")).toBe(0);
  },
);

test("a drain is as long as a call may be out, 20 s to 30 s", () => {
  expect([0, 5_000, 25_000, 30_000, 600_000].map(drainMsFor)).toEqual([
    ...[20_000, 20_000, 25_000, 30_000, 30_000],
  ]);
});

alone("a stop waits for the call that its run has left behind", async (database, context) => {
  const { tenantId } = await database.addTenant({ limitUsd: "1" });
  const runId = await addRun(database, tenantId, await addKind(database, "asking"));
  await addPrices(database);
  const sent = Promise.withResolvers<void>();
  const send = async () => {
    sent.resolve();
    await sleep(1_500);
    return Response.json({ usage: { prompt_tokens: 10, completion_tokens: 2 } });
  };
  const pool = createPool({
    connectionString: database.url("holdfast_service"),
    application_name: "test_calls",
  });
  const { log, lines } = journal();
  const db = { ...database.service, pool };
  const provider = { name: "test", model: "m", baseUrl: "http://test.invalid/v1", apiKey: undefined };
  const llm: Llm = { db, log, provider: { ...provider, simulated: true, send }, deadlineMs: 5_000 };
  const body = JSON.stringify({ model: "m", max_tokens: 9, messages: [{ role: "user", content: "?" }] });
  const asking = async ({ tenantId, runId, attempt, signal, deadline }: Run) => {
    const caller = { runId, attempt, signal, deadlineAt: Date.now() + deadline() };
    await budgetedFetch(llm, tenantId, caller)(provider.baseUrl, { method: "POST", body });
  };
  const tasks = { asking };
  const { worker } = await work(database, context, tasks, { work: db, drainMs: 100 });
  await sent.promise;
  await worker.stop();
  await pool.end(); // as every caller does next

  expect(await runRow(database, runId)).toMatchObject({ state: "PENDING", error_code: "shutdown" });
  expect(await sql(database, "select status from app.llm_reservations")).toEqual([{ status: "APPLIED" }]);
  expect(lines.map((line) => line.msg)).toEqual(["llm_reserved", "llm_settled"]);
});

/** A dollar a million, for what a test calls a model. */
async function addPrices(database: TestDatabase): Promise<void> {
  await sql(
    database,
    `insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
     select 'test', 'm', unit, 1, tstzrange('2026-01-01', null), 'test'
     from unnest(array['input', 'cached_input', 'output']) as unit`,
  );
}

/** A hold of that run; gives its id. */
async function holdOf(database: TestDatabase, tenantId: string, runId: string): Promise<string> {
  await addPrices(database);
  const asked = { provider: "test", model: "m", inputTokensBound: 1, maxOutputTokens: 1, attempt: 1 };
  const hold = { ...asked, idempotencyKey: "k", runId, ttlMs: 60_000 };
  return (await reserve(database.worker, tenantId, hold)).id;
}

alone("SIGTERM lets a run end, and the process with it", async (database, context) => {
  await addKind(database, "nap");
  const { tenantId } = await database.addTenant();
  const runId = await addRun(database, tenantId, "nap", { ms: 1_500 });
  const { child, lines } = spawnWorker(database, context);
  await until(() => lines.some((line) => line["run_id"] === runId && line.msg === "job_claimed"), 15_000);

  const ending = end(child, "SIGTERM");
  const late = await addRun(database, tenantId, "nap", { ms: 0 });
  expect(await ending).toBe(0);
  expect(await runRow(database, runId)).toMatchObject({ state: "COMPLETED", result: { pid: child.pid } });
  expect(lines.at(-1)).toMatchObject({ msg: "worker_stopped" });
  // What came too late waits for the next worker, with a token that nobody holds.
  expect(await runRow(database, late)).toMatchObject({ state: "PENDING", attempt: 0 });
  expect(await count(database, "graphile_worker.jobs where locked_at is not null")).toBe(0);
});

alone("SIGTERM aborts a run that takes longer than the drain", async (database, context) => {
  await addKind(database, "nap");
  const runId = await addRun(database, (await database.addTenant()).tenantId, "nap", { ms: 20_000 });
  const { child, lines } = spawnWorker(database, context, 500);
  await until(() => lines.some((line) => line["run_id"] === runId && line.msg === "job_claimed"), 15_000);

  const began = performance.now();
  expect(await end(child, "SIGTERM")).toBe(0);
  expect(performance.now() - began).toBeLessThan(5_000);
  expect(await runRow(database, runId)).toMatchObject({
    state: "PENDING",
    error_code: "shutdown",
    failure_count: 0,
  });

  await work(database, context, { nap: async () => "slept" });
  await until(async () => (await runRow(database, runId)).state === "COMPLETED");
});

alone("a second SIGTERM hastens the stop: the runs are given back at once", async (database, context) => {
  await addKind(database, "nap");
  const { tenantId } = await database.addTenant();
  const naps = [];
  for (const deed of ["heed", "ignore"])
    naps.push(await addRun(database, tenantId, "nap", { ms: 25_000, deed }));
  const { child, lines } = spawnWorker(database, context, 30_000);
  await until(() => lines.filter((line) => line.msg === "job_claimed").length === 2, 15_000);

  child.kill("SIGTERM");
  await sleep(1_200);
  expect(child.exitCode).toBeNull();
  const began = performance.now();
  // What ignores its signal keeps the process no longer than its grace.
  expect(await end(child, "SIGTERM")).toBe(0);
  expect(performance.now() - began).toBeLessThan(6_000);
  for (const runId of naps) {
    expect(await runRow(database, runId)).toMatchObject({
      ...{ state: "PENDING", error_code: "shutdown", failure_count: 0, crash_count: 0 },
    });
  }
  expect(await count(database, "app.job_workers")).toBe(0);
  expect(await count(database, "graphile_worker.jobs where locked_at is not null")).toBe(0);
});

alone("a worker is listed while it lives, with what it runs", async (database, context) => {
  const kind = await addKind(database, "nap");
  const { tenantId } = await database.addTenant();
  const held = Promise.withResolvers<void>();
  const { worker } = await work(database, context, { nap: () => held.promise }, { version: "1.2.3" });
  const listed = "select * from app.job_workers";
  const [first] = await sql(database, listed);
  expect(first).toMatchObject({
    ...{ pid: process.pid, version: "1.2.3", concurrency: 4, kinds: ["detection", "analysis", "nap"] },
    worker: expect.stringMatching(new RegExp(`:${process.pid}:pool-[0-9a-f]+$`)),
  });
  expect(String(first!["worker"]).endsWith(`:${first!["pool"]}`)).toBe(true);

  await addRun(database, tenantId, kind);
  await until(async () => (await sql(database, listed))[0]!["running"] === 1, 8_000);
  held.resolve();
  await worker.stop();
  expect(await sql(database, listed)).toEqual([]);
});

alone("a worker with a task that has no kind does not start", async (database, context) => {
  const refused = work(database, context, { unheard_of: async () => "x", nor_of_this: async () => "y" });
  await expect(refused).rejects.toMatchObject({
    code: "config_invalid",
    message: expect.stringContaining("nor_of_this, unheard_of"),
    hint: expect.stringContaining("ops.job_kind_set"),
  });
  expect(await count(database, "app.job_workers")).toBe(0);
});

alone("handlers that outlive their attempts end the worker at a limit", async (database, context) => {
  const kind = await addKind(database, "stubborn", { timeoutSeconds: 1 });
  const { tenantId } = await database.addTenant();
  const counts: number[] = [];
  const held = Promise.withResolvers<void>();
  context.onTestFinished(() => held.resolve());
  const { fatal, messages } = await work(
    database,
    context,
    { stubborn: () => held.promise },
    { leakedHandlersMax: 2, observe: observing({ handlersLeaked: (n) => void counts.push(n) }) },
  );
  const runs = [];
  for (let n = 0; n < 2; n += 1) runs.push(await addRun(database, tenantId, kind));
  await until(() => fatal.length > 0);
  expect(fatal).toEqual([expect.objectContaining({ code: "job_handlers_leaked", detail: { count: 2 } })]);
  expect(counts).toEqual([1, 2]);
  expect(messages().at(-1)).toBe("worker_stopped");
  for (const runId of runs) {
    expect(await runRow(database, runId)).toMatchObject({ state: "FAILED", error_code: "job_timeout" });
  }
  held.resolve();
  await until(() => counts.at(-1) === 0);
});

alone("a run that is cancelled while it runs is told by the beat", async (database, context) => {
  const kind = await addKind(database, "nap");
  const { tenantId } = await database.addTenant();
  const nap = async ({ signal }: Run) => sleep(60_000, undefined, { signal });
  const outcomes: string[] = [];
  const observe = observing({ jobSeconds: (_kind, _seconds, outcome) => void outcomes.push(outcome) });
  await work(database, context, { nap }, { observe });
  const runId = await addRun(database, tenantId, kind);
  await until(async () => (await runRow(database, runId)).state === "RUNNING");
  await sql(database, "update app.job_runs set cancel_requested_at = now() where id = $1", [runId]);
  await until(async () => (await runRow(database, runId)).state === "DEAD_LETTER", 8_000);
  expect(await runRow(database, runId)).toMatchObject({ error_code: "job_cancelled", failure_count: 1 });
  await until(() => outcomes.includes("cancelled"));
});

alone("a busy worker's tokens go to others within seconds", async (database, context) => {
  const { tenantId } = await database.addTenant();
  const kind = await addKind(database, "nap");
  const held = Promise.withResolvers<void>();
  context.onTestFinished(() => held.resolve());
  const first = await work(database, context, { nap: () => held.promise }, { concurrency: 1 });
  await until(async () => (await ended(database)) === PER_TURN);
  const busy = await addRun(database, tenantId, kind);
  await until(async () => (await runRow(database, busy)).state === "RUNNING");
  // It fetches more than it has hands for.
  const waiting: string[] = [];
  for (let n = 0; n < 3; n += 1) waiting.push(await addRun(database, tenantId, kind));
  await work(database, context, { nap: async () => "other" }, { concurrency: 1 });
  await until(async () => {
    const rows = await Promise.all(waiting.map((runId) => runRow(database, runId)));
    return rows.every((row) => row.state === "COMPLETED");
  }, 12_000);
  expect(first.fatal).toEqual([]);
});

alone(
  "a tick that meets deadlocks only fails by its name, and the next one catches up",
  async (database, context) => {
    await database.addTenant();
    await sql(
      database,
      `create function public.deadlock() returns trigger language plpgsql as $$
     begin raise exception using errcode = '40P01', message = 'deadlock detected'; end $$;
     create trigger deadlock before update on app.schedules for each statement
       when (current_query() like '%schedule_tick%') execute function public.deadlock();`,
    );
    const { worker, lines } = await work(database, context, {}, { deadlockRetries: 0 });
    await expect(worker.tickNow()).rejects.toMatchObject({ code: "scheduler_deadlock_detected" });
    expect(await count(database, "app.job_runs")).toBe(0);
    expect(lines.filter((line) => line.msg === "scheduler_deadlock_detected").at(-1)).not.toHaveProperty(
      "retry_in_ms",
    );
    await sql(database, "drop trigger deadlock on app.schedules");
    expect(await worker.tickNow()).toMatchObject({ runs: 1 });
  },
);
