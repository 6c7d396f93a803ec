import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { type Analysis, analysisGet } from "../../src/analyses.ts";
import { importFocus } from "../../src/imports.ts";
import { jobReap } from "../../src/jobs.ts";
import { type Llm, OFFLINE, type Provider, providerOf } from "../../src/llm.ts";
import { sampleTenants, writeSample } from "../../src/sample.ts";
import type { TaskEntry } from "../../src/tasks.ts";
import analysis from "../../tasks/analysis.ts";
import detection from "../../tasks/detection.ts";
import { testDatabase } from "../support/database.ts";
import { history, journal, runRow, sql } from "../support/job_scene.ts";
import { executeTask } from "../support/task_run.ts";

const database = testDatabase();
const db = database.worker;
const { log } = journal();

const directory = mkdtempSync(join(tmpdir(), "analysis-"));
const today = new Date(new Date().toISOString().slice(0, 10));
const bill = await writeSample(sampleTenants(today)[0]!, directory);
afterAll(() => rmSync(directory, { recursive: true }));

/** For the tests that a wording leaves as it was. */
let withCosts: string;
beforeAll(async () => {
  withCosts = await tenant();
});

/** Takes a request and never answers it. */
const silent = createServer(() => {});
beforeAll(async () => {
  await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
});
afterAll(() => {
  silent.closeAllConnections();
  silent.close();
});

/** A tenant with costs, unless there are to be none. */
async function tenant(options: { limitUsd?: string; costs?: boolean } = {}): Promise<string> {
  const { tenantId } = await database.addTenant(options);
  if (options.costs !== false) await importFocus(db, tenantId, { path: bill.path, source: "files" });
  return tenantId;
}

function taskFor(provider: Provider): TaskEntry {
  const llm: Llm = { db: database.service, log, provider, deadlineMs: 30_000, retryDelaysMs: [] };
  return analysis(llm);
}

/** Executes an analysis of the tenant, and gives it as it stands then. */
async function analyse(
  tenantId: string,
  task: TaskEntry,
  then?: (runId: string) => Promise<void>,
): Promise<Analysis> {
  const { runId } = await executeTask(database, tenantId, task, { log, ...(then && { then }) });
  return analysisGet(db, tenantId, runId);
}

const findings = (tenantId: string) =>
  sql<{ id: string; rank: number; headline: string; narrated_by: string; slots: Record<string, string> }>(
    database,
    `select id, rank, headline, narrated_by, slots from app.findings
     where tenant_id = $1 and state = 'open' order by rank`,
    [tenantId],
  );

const holds = (tenantId: string) =>
  sql<{ status: string }>(database, "select status from app.llm_reservations where tenant_id = $1", [
    tenantId,
  ]);

beforeEach(async () => {
  expect(await sql(database, "select * from app.llm_check()")).toEqual([]);
});

test("what SQL found, the model ranks and words, under the budget", async () => {
  const tenantId = await tenant();
  const done = await analyse(tenantId, taskFor(OFFLINE));

  expect(done).toMatchObject({
    status: "COMPLETED",
    narrated_by: "model",
    fallback_reason: null,
    model: "offline-analyst",
  });
  expect(done.llm_settled_nanousd).toBeGreaterThan(0n);
  expect(done.llm_reserved_nanousd).toBeGreaterThanOrEqual(done.llm_settled_nanousd!);
  expect(await holds(tenantId)).toEqual([{ status: "APPLIED" }]);

  const found = await findings(tenantId);
  expect(found.length).toBeGreaterThan(0);
  expect(found.length).toBe(done.findings);
  expect(found[0]).toMatchObject({ rank: 1, narrated_by: "model" });
  for (const { headline, slots } of found) {
    // Every number in a wording is a slot's, and every slot is one that SQL fills.
    expect(headline.replaceAll(/\{\{[a-z0-9_]+\}\}/g, "")).not.toMatch(/\p{N}|[{}]/u);
    for (const [, slot] of headline.matchAll(/\{\{([a-z0-9_]+)\}\}/g))
      expect(Object.keys(slots)).toContain(slot);
  }
});

test("a tenant without costs has no findings, and no call is made", async () => {
  const tenantId = await tenant({ costs: false });
  expect(await analyse(tenantId, taskFor(OFFLINE))).toMatchObject({
    status: "COMPLETED",
    narrated_by: "template",
    fallback_reason: "no_findings",
    findings: 0,
  });
  expect(await holds(tenantId)).toEqual([]);
});

test("without money the first attempt ends with the words of SQL, and says why", async () => {
  const tenantId = await tenant({ limitUsd: "0" });
  const done = await analyse(tenantId, taskFor(OFFLINE));

  expect(done).toMatchObject({
    status: "COMPLETED",
    narrated_by: "template",
    fallback_reason: "budget_exceeded",
    error_code: "budget_exceeded",
  });
  expect(await runRow(database, done.run_id)).toMatchObject({ attempt: 1, failure_count: 0 });
  expect(await history(database, done.run_id)).toEqual(["PENDING", "RUNNING", "COMPLETED"]);
  expect(await holds(tenantId)).toEqual([]);
  const found = await findings(tenantId);
  expect(found.length).toBeGreaterThan(0);
  for (const { narrated_by } of found) expect(narrated_by).toBe("template");
});

test("a model without a price is not asked", async () => {
  const tenantId = withCosts;
  const provider = providerOf({ baseUrl: "http://127.0.0.1:1/v1", apiKey: undefined, model: "priceless" });
  expect(await analyse(tenantId, taskFor(provider))).toMatchObject({
    status: "COMPLETED",
    fallback_reason: "no_price",
    error_code: "no_price",
  });
});

test("a model that is silent costs the words, not the run: there is time left to end it", async () => {
  const { port } = silent.address() as AddressInfo;
  const provider = providerOf({ baseUrl: `http://127.0.0.1:${port}/v1`, apiKey: undefined, model: "silent" });
  await sql(
    database,
    `insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
     select $1, 'silent', unit, 1, tstzrange('2000-01-01', null), 'test'
     from unnest(array['input', 'output']) as unit`,
    [provider.name],
  );
  const tenantId = withCosts;
  await sql(database, "update app.job_kinds set timeout_seconds = 6 where kind = 'analysis'");
  const began = performance.now();
  const done = await analyse(tenantId, taskFor(provider));
  await sql(database, "update app.job_kinds set timeout_seconds = 120 where kind = 'analysis'");

  expect(performance.now() - began).toBeLessThan(4_000);
  expect(done).toMatchObject({
    status: "COMPLETED",
    narrated_by: "template",
    fallback_reason: "llm_timeout",
  });
  // The provider may bill what it has received.
  expect(await holds(tenantId)).toEqual([{ status: "PRESUMED" }]);
});

test("an attempt that was overtaken applies nothing", async () => {
  const tenantId = await tenant();
  const task = taskFor(OFFLINE);
  const overtaken = await analyse(tenantId, task, async (runId) => {
    await sql(database, "update app.job_runs set lease_until = now() - interval '1 second' where id = $1", [
      runId,
    ]);
    await jobReap(db);
  });

  expect(overtaken).toMatchObject({ status: "PENDING", narrated_by: null, findings: null });
  expect(await sql(database, "select from app.analyses where tenant_id = $1", [tenantId])).toEqual([]);
  for (const { narrated_by } of await findings(tenantId)) expect(narrated_by).toBe("template");
  const { run_id: runId } = overtaken;
  await sql(database, "update app.job_runs set available_at = now() where id = $1", [runId]);
  await executeTask(database, tenantId, task, { log, runId });
  expect(await analysisGet(db, tenantId, runId)).toMatchObject({ status: "COMPLETED", narrated_by: "model" });
});

test("a run of the scheduler words what its detection found, and says without what", async () => {
  const tenantId = await tenant();
  await executeTask(database, tenantId, detection(), { log, slot: 3_600 });
  const [before] = await sql(
    database,
    "select max(last_seen_at) as at from app.findings where tenant_id = $1",
    [tenantId],
  );
  const ended = await executeTask(database, tenantId, taskFor(OFFLINE), {
    ...{ log, slot: 3_601, input: { without: ["cost_import"], missed_slots: 1 } },
  });
  expect(ended).toMatchObject({ state: "COMPLETED" });
  expect(await analysisGet(db, tenantId, ended.runId)).toMatchObject({
    narrated_by: "model",
    without: ["cost_import"],
  });
  const [after] = await sql(
    database,
    "select max(last_seen_at) as at from app.findings where tenant_id = $1",
    [tenantId],
  );
  expect(after).toEqual(before);
});
