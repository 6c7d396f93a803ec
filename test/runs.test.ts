import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { AppError } from "../src/errors.ts";
import { jobClaim, jobComplete, jobFail, jobReap, workerBeat } from "../src/jobs.ts";
import { startBeats } from "../src/runs/beats.ts";
import { executeRun, GRACE_MS, type Run, type Task, unsettledHandlers } from "../src/runs.ts";
import { byKind, task } from "../src/tasks.ts";
import { testDatabase } from "./support/database.ts";
import {
  addKind,
  addRun,
  depsOf,
  history,
  journal,
  observing,
  runRow,
  sql,
  tasksOf,
  transitionsTold,
  until,
} from "./support/job_scene.ts";

const database = testDatabase();
const db = database.worker;
let tenantId: string;
const { log, lines, messages } = journal();
const timeouts: string[] = [];
const measured: { kind: string; seconds: number; outcome: string }[] = [];
const observe = observing({
  jobSeconds: (kind, seconds, outcome) => void measured.push({ kind, seconds, outcome }),
  jobTimeout: (kind, layer) => void timeouts.push(`${kind}: ${layer}`),
});
const Row = z.record(z.string(), z.unknown());

beforeAll(async () => {
  tenantId = (await database.addTenant()).tenantId;
});

/** Executes the run as `worker` would, its handler being `task`; gives how long that took, in ms. */
async function execute(runId: string, task: Task, worker = "one", poolSignal?: AbortSignal): Promise<number> {
  const deps = depsOf(database, worker, { log, observe });
  const [{ kind }] = (await sql(database, "select kind from app.job_runs where id = $1", [runId])) as [
    { kind: string },
  ];
  const began = performance.now();
  await executeRun(deps, { tenantId, runId }, byKind(tasksOf({ [kind]: task })), poolSignal);
  return performance.now() - began;
}

/** What was logged of stale tokens of a run. */
const stale = (runId: string) =>
  lines
    .filter((line) => line["run_id"] === runId && line.msg === "job_token_stale")
    .map(({ level, msg, tenant_id, run_id }) => ({ level, msg, tenant_id, run_id }));

/** A handler that never heeds its signal, until the test lets it go. */
function stubborn(): { task: Task; run: Promise<Run>; letGo: () => void } {
  const held = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<Run>();
  const task: Task = async (run) => {
    begun.resolve(run);
    await held.promise;
    return { late: true };
  };
  return { task, run: begun.promise, letGo: held.resolve };
}

/** What a lost worker leaves: a lease that nobody renews, found by the reaper. */
async function lose(runId: string): Promise<void> {
  await sql(database, "update app.job_runs set lease_until = now() - interval '1 second' where id = $1", [
    runId,
  ]);
  await jobReap(db);
  // A reaper that came at the same time may have taken it.
  await until(async () => (await runRow(database, runId)).state === "FAILED");
}

describe("a run", () => {
  test("is given to its task, and its result is kept", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "echo"), { month: "2026-10" });

    await execute(runId, async (run) => {
      expect(run).toMatchObject({ tenantId, runId, attempt: 1, kind: "echo", input: { month: "2026-10" } });
      expect(run.deadline()).toBeGreaterThan(29_000);
      expect(run.deadline()).toBeLessThanOrEqual(30_000);
      return run.call("select $1::text as tenant, length($2::text) > 0 as ticket, $3::int as n", [7], Row);
    });

    expect(await runRow(database, runId)).toMatchObject({
      state: "COMPLETED",
      attempt: 1,
      worker: "one",
      result: [{ tenant: tenantId, ticket: true, n: 7 }],
    });
    expect(await history(database, runId)).toEqual(["PENDING", "RUNNING", "COMPLETED"]);
    expect(messages(runId)).toEqual(["job_claimed", "job_completed"]);
    const facts = { tenant_id: tenantId, run_id: runId, kind: "echo", attempt: 1 };
    expect(lines.filter((line) => line["run_id"] === runId)).toEqual([
      expect.objectContaining(facts),
      expect.objectContaining(facts),
    ]);
    expect(measured).toContainEqual({ kind: "echo", seconds: expect.any(Number), outcome: "completed" });
  });

  test("is claimed once, however many workers hold its token", async () => {
    const kind = await addKind(database, "raced");
    for (let round = 0; round < 5; round += 1) {
      const runId = await addRun(database, tenantId, kind);
      let begun = 0;
      const task: Task = async () => {
        begun += 1;
        await sleep(20);
        return { begun };
      };
      await Promise.all(["a", "b", "c", "d", "e", "f"].map((worker) => execute(runId, task, worker)));
      expect(begun).toBe(1);
      expect(await runRow(database, runId)).toMatchObject({ state: "COMPLETED", attempt: 1 });
    }
  });

  test("does nothing for a token whose run has ended", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "ended"));
    await execute(runId, async () => "first");
    await execute(runId, async () => expect.unreachable());
    expect(await runRow(database, runId)).toMatchObject({ state: "COMPLETED", attempt: 1, result: "first" });
    expect(stale(runId)).toEqual([{ level: 20, msg: "job_token_stale", tenant_id: tenantId, run_id: runId }]);
  });

  test("drops a token whose run is not there, or a stranger's, and says so as of one that ended", async () => {
    const due = await addRun(database, tenantId, await addKind(database, "unseen"));
    const stranger = (await database.addTenant()).tenantId;
    const deps = depsOf(database, "one", { log, observe });
    const before = measured.length;
    for (const runId of [randomUUID(), due]) {
      expect(await jobClaim(db, "stranger", [{ tenantId: stranger, runId }])).toEqual([]);
      const tasks = byKind(tasksOf({ unseen: async () => expect.unreachable() }));
      await executeRun(deps, { tenantId: stranger, runId }, tasks);
      expect(stale(runId)).toEqual([
        { level: 20, msg: "job_token_stale", tenant_id: stranger, run_id: runId },
      ]);
      expect(messages(runId)).toEqual(["job_token_stale"]);
    }
    expect(measured).toHaveLength(before);
    expect(await runRow(database, due)).toMatchObject({ state: "PENDING", attempt: 0 });
  });

  test("of a suspended tenant waits, parked", async () => {
    const suspended = (await database.addTenant()).tenantId;
    const runId = await addRun(database, suspended, await addKind(database, "suspended"));
    await sql(database, "update app.tenants set status = 'SUSPENDED' where tenant_id = $1", [suspended]);
    const deps = depsOf(database, "one", { log, observe });
    await executeRun(deps, { tenantId: suspended, runId }, byKind([]));
    expect(messages(runId)).toEqual(["job_token_stale"]);
    expect(await runRow(database, runId)).toMatchObject({ state: "PENDING", attempt: 0 });
  });

  test("is not dropped when its claim fails", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "unclaimable"));
    await sql(database, "revoke execute on function app.job_claim from holdfast_worker");
    const executed = executeRun(depsOf(database, "one", { log, observe }), { tenantId, runId }, byKind([]));
    await expect(executed).rejects.toMatchObject({ code: "42501" });
    await sql(database, "grant execute on function app.job_claim to holdfast_worker");
    expect(messages(runId)).toEqual([]);
  });
});

describe("each change of state that a worker makes is told once", () => {
  test("and none that it does not make", async () => {
    const { told, transition } = transitionsTold();
    const kind = await addKind(database, "telling", { backoffMs: 300 });
    const run = (runId: string, handler: Task, signal?: AbortSignal) =>
      executeRun(
        depsOf(database, "one", { log, observe: observing({ transition }) }),
        { tenantId, runId },
        byKind(tasksOf({ [kind]: handler })),
        signal,
      );
    const [first, second, fatal, stopped] = [
      await addRun(database, tenantId, kind),
      await addRun(database, tenantId, kind),
      await addRun(database, tenantId, kind),
      await addRun(database, tenantId, kind),
    ];
    const fail: Task = async () => Promise.reject(new Error("not yet"));

    await run(first, fail);
    expect(told).toEqual({ "PENDING RUNNING": 1, "RUNNING FAILED": 1 });
    await run(first, async () => expect.unreachable()); // it is not due
    expect(told).toEqual({ "PENDING RUNNING": 1, "RUNNING FAILED": 1 });
    await sleep(Math.max(0, (await runRow(database, first)).wait_ms) + 5);
    await run(first, async () => "done");
    expect(told).toEqual({ ...told, "FAILED RUNNING": 1, "RUNNING COMPLETED": 1 });
    await run(first, async () => expect.unreachable()); // it has ended

    await run(second, async () => "done");
    expect(told).toEqual({
      ...{ "PENDING RUNNING": 2, "RUNNING FAILED": 1, "FAILED RUNNING": 1, "RUNNING COMPLETED": 2 },
    });

    await sql(database, "update app.job_kinds set max_retries = 0 where kind = $1", [kind]);
    await run(fatal, fail);
    const stop = new AbortController();
    await run(
      stopped,
      async ({ signal }) => {
        stop.abort();
        await untilAborted(signal);
      },
      stop.signal,
    );
    // What a reaper makes of it is not the worker's to tell.
    await run(stopped, () => lose(stopped).then(() => "late"));

    const events = await sql(
      database,
      `select from_state || ' ' || to_state as change, count(*)::int as n from app.job_run_events
       where run_id = any ($1) and from_state is not null and not (run_id = $2 and to_state = 'FAILED')
       group by 1`,
      [[first, second, fatal, stopped], stopped],
    );
    expect(Object.fromEntries(events.map((each) => [each["change"], each["n"]]))).toEqual(told);
    expect(told).toEqual({
      ...{ "PENDING RUNNING": 5, "FAILED RUNNING": 1, "RUNNING FAILED": 1, "RUNNING COMPLETED": 2 },
      ...{ "RUNNING DEAD_LETTER": 1, "RUNNING PENDING": 1 },
    });
  });
});

describe.concurrent("the fence", () => {
  test("refuses an attempt that was reaped, and lets the next one end", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "reaped"));
    expect(await jobClaim(db, "lost", [{ tenantId, runId }])).toMatchObject([{ attempt: 1, maxAttempts: 4 }]);
    await lose(runId);
    expect(await runRow(database, runId)).toMatchObject({
      state: "FAILED",
      error_code: "worker_lost",
      crash_count: 1,
    });

    const fenced = { code: "job_run_fenced", status: 409 };
    await expect(jobComplete(db, tenantId, runId, 1, "zombie")).rejects.toMatchObject(fenced);
    await execute(runId, async (run) => {
      await expect(jobComplete(db, tenantId, runId, 1, "zombie")).rejects.toMatchObject(fenced);
      await expect(jobFail(db, tenantId, runId, 1, { code: "zombie", message: "" })).rejects.toMatchObject(
        fenced,
      );
      return { attempt: run.attempt };
    });

    expect(await runRow(database, runId)).toMatchObject({ state: "COMPLETED", result: { attempt: 2 } });
    expect(await history(database, runId)).toEqual(["PENDING", "RUNNING", "FAILED", "RUNNING", "COMPLETED"]);
  });

  test.each([
    ["result", async () => "zombie"],
    ["error", async () => Promise.reject(new Error("zombie"))],
  ])("swallows the %s of a zombie: its token is done with, its work is dropped", async (what, end) => {
    const runId = await addRun(database, tenantId, await addKind(database, `zombie_${what}`));
    const { task, run, letGo } = stubborn();
    const zombie = execute(runId, (each) => task(each).then(end));
    await run;
    await lose(runId);
    await execute(runId, async () => "second", "two");
    letGo();
    await zombie;

    expect(await runRow(database, runId)).toMatchObject({ state: "COMPLETED", attempt: 2, result: "second" });
    expect(messages(runId)).toEqual(["job_claimed", "job_claimed", "job_completed", "job_fenced"]);
    expect(measured).toContainEqual({
      kind: `zombie_${what}`,
      seconds: expect.any(Number),
      outcome: "fenced",
    });
  });

  test("reaches a handler by the beat of its worker", { timeout: 15_000 }, async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "beating"));
    const deps = depsOf(database, "beating", { log, observe });
    const beats = await startBeats(
      (running, signal) => workerBeat(db, FACTS, running, { signal }),
      deps.live,
      log,
    );
    const { task, run } = stubborn();
    const tasks = byKind(
      tasksOf({ beating: (each) => Promise.race([task(each), untilAborted(each.signal)]) }),
    );
    const running = executeRun(deps, { tenantId, runId }, tasks);
    const { signal } = await run;

    const lease =
      "select lease_until > now() + interval '16 seconds' as fresh from app.job_runs where id = $1";
    await sql(database, "update app.job_runs set lease_until = now() + interval '8 seconds' where id = $1", [
      runId,
    ]);
    await until(async () => (await sql(database, lease, [runId]))[0]!["fresh"] === true, 7_000);
    expect(signal.aborted).toBe(false);

    await lose(runId);
    await running;
    expect(signal.reason).toMatchObject({ code: "job_run_fenced" });
    expect(await runRow(database, runId)).toMatchObject({ state: "FAILED", error_code: "worker_lost" });
    expect(deps.live.size).toBe(0);
    await beats.stop();
  });
});

const FACTS = {
  worker: "beating",
  pool: "p",
  host: "h",
  pid: 1,
  version: "0",
  kinds: ["beating"],
  concurrency: 1,
};

/** Heeds a signal as `fetch` does. */
async function untilAborted(signal: AbortSignal): Promise<never> {
  return sleep(60_000, undefined, { signal }).then(
    () => expect.unreachable(),
    () => {
      throw signal.reason;
    },
  );
}

describe.concurrent("the time limit", () => {
  const timedOut = { state: "FAILED", attempt: 1, error_code: "job_timeout" };

  test("aborts a handler that heeds its signal", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "heeding", { timeoutSeconds: 1 }));
    const took = await execute(runId, async ({ signal, deadline }) => {
      await untilAborted(signal).catch(() => {});
      expect(deadline()).toBeLessThan(5);
      throw new Error("cut");
    });

    expect(took).toBeGreaterThan(950);
    expect(took).toBeLessThan(1_000 + GRACE_MS / 2);
    expect(await runRow(database, runId)).toMatchObject(timedOut);
    expect(messages(runId)).toEqual(["job_claimed", "job_timeout", "job_failed"]);
    expect(timeouts.filter((each) => each.startsWith("heeding"))).toEqual(["heeding: abort"]);
  });

  test("takes the slot of a handler that ignores it, and refuses what comes late", async () => {
    const runId = await addRun(
      database,
      tenantId,
      await addKind(database, "ignoring", { timeoutSeconds: 1 }),
    );
    const { task, run, letGo } = stubborn();
    const took = await execute(runId, task);

    expect(took).toBeGreaterThan(1_000 + GRACE_MS - 50);
    expect(took).toBeLessThan(1_000 + GRACE_MS + 1_000);
    expect(await runRow(database, runId)).toMatchObject(timedOut);
    expect(unsettledHandlers()).toBe(1);

    // Late work: through the run, and around it.
    await expect((await run).call("select 1 as n where $1 <> $2", [], Row)).rejects.toMatchObject({
      code: "job_timeout",
    });
    await expect(jobComplete(db, tenantId, runId, 1, "late")).rejects.toMatchObject({
      code: "job_run_fenced",
    });
    letGo();
    await until(() => unsettledHandlers() === 0);
    expect(await runRow(database, runId)).toMatchObject({ ...timedOut, result: null });
    expect(messages(runId)).toEqual([
      "job_claimed",
      "job_handler_unsettled",
      "job_timeout",
      "job_failed",
      "job_handler_settled_late",
    ]);
  });

  test("refuses a result that comes within the grace", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "graced", { timeoutSeconds: 1 }));
    await execute(runId, async () => {
      await sleep(1_200);
      return "a little late";
    });
    expect(await runRow(database, runId)).toMatchObject({ ...timedOut, result: null });
  });

  test("cuts a statement in the server", async () => {
    const runId = await addRun(
      database,
      tenantId,
      await addKind(database, "sleeping", { timeoutSeconds: 1 }),
    );
    const asleep = `select count(*)::int as n from pg_stat_activity
       where query like '/* the sleeper */%' and state = 'active'`;
    const running = execute(runId, ({ call }) =>
      call("/* the sleeper */ select pg_sleep(30)::text as slept where $1 <> $2", [], Row),
    );
    await until(async () => (await sql(database, asleep))[0]!["n"] === 1);
    const took = await running;

    expect(took).toBeLessThan(1_000 + GRACE_MS / 2);
    expect(await runRow(database, runId)).toMatchObject(timedOut);
    await until(async () => (await sql(database, asleep))[0]!["n"] === 0, 500);
  });

  test("ends a statement that swallows its cancellation", async () => {
    const runId = await addRun(
      database,
      tenantId,
      await addKind(database, "trapping", { timeoutSeconds: 1 }),
    );
    await sql(
      database,
      `create function public.trap() returns int language plpgsql as $$
       begin perform pg_sleep(30); exception when query_canceled then perform pg_sleep(30); return 1; end $$`,
    );
    const trapped = `select count(*)::int as n from pg_stat_activity
       where query like 'select public.trap()%' and state = 'active'`;
    const running = execute(runId, ({ call }) => call("select public.trap() as n where $1 <> $2", [], Row));
    await until(async () => (await sql(database, trapped))[0]!["n"] === 1);
    const took = await running;

    expect(took).toBeLessThan(1_000 + GRACE_MS / 2);
    expect(await runRow(database, runId)).toMatchObject(timedOut);
    // The server looks once a second whether its client is still there.
    await until(async () => (await sql(database, trapped))[0]!["n"] === 0, 3_000);
  });

  test("leaves no timer behind", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "quick", { timeoutSeconds: 1 }));
    let signal: AbortSignal | undefined;
    await execute(runId, async (run) => {
      signal = run.signal;
    });
    await sleep(1_200);
    expect(signal?.aborted).toBe(false);
    expect(await runRow(database, runId)).toMatchObject({ state: "COMPLETED", result: null });
  });
});

describe("a failure", () => {
  test("is tried again after a wait that doubles, and ends as a dead letter", async () => {
    const backoffMs = 300;
    const kind = await addKind(database, "failing", { maxRetries: 2, backoffMs });
    const runId = await addRun(database, tenantId, kind);
    const fail: Task = async () => {
      throw new AppError("service_unavailable", { detail: { upstream: "x" } });
    };

    for (const attempt of [1, 2]) {
      await execute(runId, fail);
      const failed = await runRow(database, runId);
      expect(failed).toMatchObject({ state: "FAILED", attempt, error_code: "service_unavailable" });
      expect(failed.error).toBe('service_unavailable {"upstream":"x"}');
      const wait = backoffMs * 2 ** (attempt - 1);
      expect(failed.wait_ms).toBeGreaterThan(wait * 0.5 - 100);
      expect(failed.wait_ms).toBeLessThan(wait * 1.5);
      expect(await tokensOf(runId)).toContain(`run:${runId}:${attempt}`);
      expect(lines.findLast((line) => line["run_id"] === runId)).toMatchObject({
        msg: "job_failed",
        error_code: "service_unavailable",
        error_text: 'service_unavailable {"upstream":"x"}',
      });

      // Not due: the token does nothing.
      await execute(runId, async () => expect.unreachable());
      expect(await runRow(database, runId)).toMatchObject({ state: "FAILED", attempt });
      await sleep(Math.max(0, (await runRow(database, runId)).wait_ms) + 5);
    }
    await execute(runId, fail);

    expect(await runRow(database, runId)).toMatchObject({
      state: "DEAD_LETTER",
      attempt: 3,
      failure_count: 3,
    });
    expect(await tokensOf(runId)).not.toContain(`run:${runId}:3`);
    expect(
      messages(runId).filter((message) => message !== "job_claimed" && message !== "job_token_stale"),
    ).toEqual(["job_failed", "job_failed", "job_dead_letter"]);
    expect(await history(database, runId)).toEqual([
      "PENDING",
      ...["RUNNING", "FAILED", "RUNNING", "FAILED", "RUNNING", "DEAD_LETTER"],
    ]);
    expect(measured.filter((each) => each.kind === kind).map((each) => each.outcome)).toEqual([
      ...["failed", "failed", "dead_letter"],
    ]);
  });

  test("of a code that no retry can cure is a dead letter at once", async () => {
    const kind = await addKind(database, "hopeless", { nonRetryable: ["focus_invalid", "job_kind_unknown"] });
    const runId = await addRun(database, tenantId, kind);
    await execute(runId, async () => {
      throw new AppError("focus_invalid");
    });
    expect(await runRow(database, runId)).toMatchObject({
      state: "DEAD_LETTER",
      attempt: 1,
      error_code: "focus_invalid",
    });

    const orphan = await addRun(database, tenantId, kind);
    await executeRun(depsOf(database, "one", { log }), { tenantId, runId: orphan }, byKind([]));
    expect(await runRow(database, orphan)).toMatchObject({
      state: "DEAD_LETTER",
      error_code: "job_kind_unknown",
    });
  });

  test("of the database carries its SQLSTATE, is not tried again with the same data, and one of a stranger's making is kept whole", async () => {
    const kind = await addKind(database, "odd");
    const divided = await addRun(database, tenantId, kind);
    await execute(divided, ({ call }) => call("select 1 / $3::int as n where $1 <> $2", [0], Row));
    expect(await runRow(database, divided)).toMatchObject({
      state: "DEAD_LETTER",
      error_code: "sqlstate_22012",
    });

    const thrown = await addRun(database, tenantId, kind);
    await execute(thrown, () => {
      throw "a text with a NUL \0 in it";
    });
    expect(await runRow(database, thrown)).toMatchObject({
      error_code: "internal_error",
      error: "a text with a NUL \uFFFD in it",
    });
    expect(lines.findLast((line) => line["run_id"] === divided)).toMatchObject({
      msg: "job_dead_letter",
      error_code: "sqlstate_22012",
      err: { message: "division by zero" },
    });
  });

  test("of a result that SQL refuses ends the run, and nothing of it is applied", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "unstorable"));
    await execute(runId, async () => ({ text: "\0" }));
    expect(await runRow(database, runId)).toMatchObject({
      state: "DEAD_LETTER",
      error_code: "sqlstate_22P05",
      result: null,
    });
  });

  test("that cannot be written is thrown, so that the queue keeps the token", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "unwritable"));
    const suspend = (status: string) =>
      sql(database, "update app.tenants set status = $2 where tenant_id = $1", [tenantId, status]);
    const running = execute(runId, async () => {
      await suspend("SUSPENDED");
      throw new Error("and no way to say so");
    });
    await expect(running).rejects.toMatchObject({ code: "rls_enforcement_failed" });
    await suspend("ACTIVE");
    expect(await runRow(database, runId)).toMatchObject({ state: "RUNNING" });
  });
});

describe("a shutdown that cannot wait", () => {
  test("aborts the run, which waits for the next worker and has not failed", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "shut"));
    const shutdown = new AbortController();
    setTimeout(() => shutdown.abort(), 100);
    const took = await execute(runId, ({ signal }) => untilAborted(signal), "one", shutdown.signal);
    expect(took).toBeLessThan(1_000);
    expect(await runRow(database, runId)).toMatchObject({
      state: "PENDING",
      error_code: "shutdown",
      failure_count: 0,
    });
    expect(messages(runId)).toEqual(["job_claimed", "job_stopped"]);
    expect(measured.filter((each) => each.kind === "shut").map((each) => each.outcome)).toEqual(["stopped"]);
    await execute(runId, async () => "done", "two");
    expect(await runRow(database, runId)).toMatchObject({ state: "COMPLETED", attempt: 2, failure_count: 0 });
  });

  test("lets a result count that is there in time", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "shut_late"));
    const shutdown = new AbortController();
    await execute(
      runId,
      async () => {
        shutdown.abort();
        await sleep(50);
        return "done";
      },
      "one",
      shutdown.signal,
    );
    expect(await runRow(database, runId)).toMatchObject({ state: "COMPLETED", result: "done" });
  });

  test("reaches a run whose claim was under way", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "shut_early"));
    await sql(database, "update app.job_kinds set max_running = 1 where kind = 'shut_early'");
    const shutdown = new AbortController();
    const lock = await database.superuser.connect();
    await lock.query("begin; lock table app.job_gates");
    const { task, letGo } = stubborn();
    const running = execute(runId, task, "one", shutdown.signal);
    const waiting =
      "select from pg_stat_activity where wait_event_type = 'Lock' and query like '%app.job_claim%'";
    await until(async () => (await sql(database, waiting)).length === 1);
    shutdown.abort();
    await lock.query("commit");
    lock.release();

    expect(await running).toBeLessThan(GRACE_MS + 1_500);
    expect(await runRow(database, runId)).toMatchObject({
      state: "PENDING",
      error_code: "shutdown",
      failure_count: 0,
    });
    letGo();
    await until(() => unsettledHandlers() === 0);
  });

  test("claims nothing any more", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "unshut"));
    const refused = execute(runId, async () => expect.unreachable(), "one", AbortSignal.abort());
    await expect(refused).rejects.toMatchObject({ code: "shutdown" });
    expect(await runRow(database, runId)).toMatchObject({ state: "PENDING", attempt: 0 });
  });
});

describe("a cancellation", () => {
  const cancel = (runId: string) =>
    sql(database, "update app.job_runs set cancel_requested_at = now() where id = $1", [runId]);

  test("is heard by a handler that asks, and ends the run for good, put aside", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "asking_on"));
    const asked: unknown[] = [];
    await execute(runId, async ({ heartbeat, signal }) => {
      asked.push(await heartbeat());
      await cancel(runId);
      await heartbeat().catch((error: unknown) => asked.push(error, signal.reason));
      return "too late";
    });
    const cancelled = { code: "job_cancelled" };
    expect(asked).toMatchObject([expect.any(Date), cancelled, cancelled]);
    expect(await runRow(database, runId)).toMatchObject({
      state: "DEAD_LETTER",
      error_code: "job_cancelled",
      result: null,
    });
    expect(
      await sql(database, "select from app.job_runs where id = $1 and discarded_at is not null", [runId]),
    ).toHaveLength(1);
    expect(messages(runId)).toEqual(["job_claimed", "job_cancelled"]);
    expect(measured).toContainEqual({ kind: "asking_on", seconds: expect.any(Number), outcome: "cancelled" });
  });

  test("is heard by one that reports its progress", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "reporting"));
    const row = "select progress, progress_text from app.job_runs where id = $1";
    await execute(runId, async ({ progress, signal }) => {
      progress(0.25, "x".repeat(300));
      await until(async () => (await sql(database, row, [runId]))[0]!["progress"] === 0.25);
      await cancel(runId);
      progress(0.5, "never seen");
      await untilAborted(signal);
    });
    expect(await runRow(database, runId)).toMatchObject({
      state: "DEAD_LETTER",
      error_code: "job_cancelled",
    });
    expect((await sql(database, row, [runId]))[0]!["progress_text"]).toHaveLength(200);
  });
});

describe("the input", () => {
  const input = z.object({ month: z.string().regex(/^\d{4}-\d\d$/) });

  test("is read by the schema of its task", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "reading"), {
      month: "2026-10",
      x: 1,
    });
    const entry = task({ kind: "reading", input, run: async (run) => run.input });
    await executeRun(depsOf(database, "one", { log }), { tenantId, runId }, byKind([entry]));
    expect(await runRow(database, runId)).toMatchObject({ state: "COMPLETED", result: { month: "2026-10" } });
  });

  test("that the schema refuses makes a dead letter, and its task is not begun", async () => {
    const runId = await addRun(database, tenantId, await addKind(database, "refusing"), { month: "October" });
    const entry = task({ kind: "refusing", input, run: async () => expect.unreachable() });
    await executeRun(depsOf(database, "one", { log }), { tenantId, runId }, byKind([entry]));
    const row = await runRow(database, runId);
    expect(row).toMatchObject({ state: "DEAD_LETTER", error_code: "job_input_invalid", attempt: 1 });
    expect(row.error).toContain('"path":"month"');
  });
});

describe("two workers with one run", () => {
  test("of which one is late: it is fenced, and what it did in its work transaction is undone", async () => {
    const kind = await addKind(database, "shared");
    const runId = await addRun(database, tenantId, kind);
    const spared = await addRun(database, tenantId, await addKind(database, "shared_victim"));
    const cancelOther =
      "select state from app.job_cancel($1, $2, run_id => $3, actor => 'test', reason => 'a test')";
    const { task: stuck, run, letGo } = stubborn();
    const late = execute(runId, async (each) => {
      await each.client.call(cancelOther, [spared], Row);
      return stuck(each);
    });
    await run;
    await lose(runId);
    await execute(runId, async () => "second", "two");
    letGo();
    await late;
    expect(await runRow(database, runId)).toMatchObject({ state: "COMPLETED", result: "second", attempt: 2 });
    expect(await runRow(database, spared)).toMatchObject({ state: "PENDING" });
    expect(messages(runId).at(-1)).toBe("job_fenced");
  });
});

async function tokensOf(runId: string): Promise<string[]> {
  const tokens = await sql<{ key: string }>(
    database,
    "select key from graphile_worker.jobs where key like $1",
    [`run:${runId}:%`],
  );
  return tokens.map((token) => token.key);
}
