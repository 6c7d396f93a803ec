import { beforeAll, describe, expect, test } from "vitest";
import { executeRun, GRACE_MS, unsettledHandlers } from "../../src/runs.ts";
import { AnyInput, byKind } from "../../src/tasks.ts";
import { testDatabase } from "../support/database.ts";
import { addKind, addRun, depsOf, journal, observing, runRow } from "../support/job_scene.ts";

const database = testDatabase();
const { log, lines } = journal();
const layers: string[] = [];
const observe = observing({ jobTimeout: (kind, layer) => void layers.push(`${kind}: ${layer}`) });
const thread = new URL("../support/thread_task.ts", import.meta.url);
let tenantId: string;

beforeAll(async () => {
  process.env["SECRET_OF_THE_PROCESS"] = "x";
  tenantId = (await database.addTenant()).tenantId;
});

/** Executes a run whose task, in a thread, does this; gives what became of it. */
async function execute(
  deed: string,
  {
    timeoutSeconds = 30,
    shutdown,
    ...input
  }: Record<string, unknown> & { timeoutSeconds?: number; shutdown?: AbortSignal } = {},
) {
  const kind = await addKind(database, `thread_${deed}`, { timeoutSeconds });
  const runId = await addRun(database, tenantId, kind, { deed, ...input });
  const deps = depsOf(database, "one", { log, observe });
  const began = performance.now();
  await executeRun(deps, { tenantId, runId }, byKind([{ kind, input: AnyInput, thread }]), shutdown);
  return { ...(await runRow(database, runId)), runId, tookMs: performance.now() - began };
}

describe.concurrent("a task in a thread", () => {
  test("has all that a task has, through its calls", async () => {
    const run = await execute("count", { n: 7 });
    expect(run).toMatchObject({
      state: "COMPLETED",
      result: {
        rows: [{ n: 7, role: "holdfast_tenant" }],
        called: { n: 8 },
        worked: { n: 9 },
        ...{ tenantId, attempt: 1, slot: null, left: true, lease: true },
      },
    });
    const said = lines.filter((line) => line["run_id"] === run.runId && /^thread/.test(line.msg));
    expect(said).toMatchObject([
      { level: 30, msg: "thread_said", deed: "count", tenant_id: tenantId },
      { level: 40, msg: "thread_warned", more: 1 },
    ]);
  });

  test("that spins is terminated, and leaves nothing behind", async () => {
    const run = await execute("spin", { timeoutSeconds: 1 });
    expect(run).toMatchObject({ state: "FAILED", error_code: "job_timeout" });
    expect(run.tookMs).toBeLessThan(1_000 + GRACE_MS + 1_000);
    expect(layers).toContain("thread_spin: thread");
    expect(unsettledHandlers()).toBe(0);
  });

  test("hears its signal, with the reason", async () => {
    const run = await execute("heed", { timeoutSeconds: 3 });
    expect(run).toMatchObject({ state: "FAILED", error_code: "job_timeout" });
    expect(run.tookMs).toBeLessThan(3_000 + GRACE_MS);
    expect(layers).toContain("thread_heed: abort");
  });

  test("waits for the next worker after a shutdown", async () => {
    const shutdown = new AbortController();
    setTimeout(() => shutdown.abort(), 300);
    const run = await execute("wait_for_sql", { shutdown: shutdown.signal });
    expect(run).toMatchObject({ state: "PENDING", error_code: "shutdown", failure_count: 0 });
  });

  test.each([
    ["fail", { name: "AppError", code: "focus_invalid" }, "focus_invalid"],
    ["refuse", {}, "sqlstate_22012"],
    ["exit", {}, "internal_error"],
    ["unclonable", {}, "internal_error"],
  ])("that ends by %s fails by its name", async (deed, input, code) => {
    const run = await execute(deed, input);
    expect(run.error_code).toBe(code);
    expect(["FAILED", "DEAD_LETTER"]).toContain(run.state);
  });

  test("that fills its memory fails alone", { timeout: 30_000 }, async () => {
    const run = await execute("fill");
    expect(run).toMatchObject({ state: "FAILED", error_code: "internal_error" });
    expect(run.error).toContain("memory");
  });

  test("sees no environment of the process", async () => {
    expect((await execute("environment")).result).toEqual([]);
  });
});
