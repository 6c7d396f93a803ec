// sql/ops/report.sql and the other views for people: what a tenant has, spends and did.
import { beforeAll, describe, expect, test } from "vitest";
import { type Row, refusal } from "../support/contract.ts";
import { usage } from "../support/costs.ts";
import { testDatabase } from "../support/database.ts";
import { analysesOf, BY_TEMPLATE, byModel, costOf, LAST_DAY, THREE_FINDINGS } from "../support/findings.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const { costs, runs, detect, scheduled } = analysesOf(database);

const seen = async (text: string, values: unknown[] = []): Promise<Row[]> =>
  (await database.ops.query(text, values)).rows;
const reportOf = async (name: string): Promise<Row> =>
  (await seen("select * from ops.report where tenant = $1", [name]))[0]!;

beforeAll(() => ledger.setPrices());

describe("report", () => {
  test("a tenant that is new", async () => {
    const { name } = await database.addTenant({ limitUsd: "5" });
    expect(await reportOf(name)).toMatchObject({
      tier: "ACTIVE",
      rows: "0",
      flags: "0",
      findings: "0",
      saving: null,
      reserved: "0",
      settled: "0",
      left: "5",
      state: "no_analysis",
    });
  });

  test("what was imported, found, held and spent, and how its last analysis ended", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "5", tier: "HIGH_VALUE" });
    await costs.load(tenantId, [...THREE_FINDINGS, usage(LAST_DAY, 7, { provider_name: null })]);
    const runId = await runs.running(tenantId);
    await detect(tenantId, runId);
    expect(await reportOf(name)).toMatchObject({ state: "running" });
    const hold = await ledger.reserve(tenantId, { runId });
    expect(await reportOf(name)).toMatchObject({ reserved: "0.001", settled: "0", left: "4.999" });
    await ledger.settle(tenantId, hold["id"], 100, 20);
    await runs.complete(tenantId, runId, 1, byModel([]));
    expect(await reportOf(name)).toMatchObject({
      tier: "HIGH_VALUE",
      rows: "226",
      flags: "1",
      findings: "3",
      saving: String(60 * 30.4375),
      currency: "USD",
      reserved: "0.001",
      settled: "0.00014",
      left: "4.99986",
      state: "completed",
    });
  });

  test.each([
    ["budget_exceeded", "budget_exceeded"],
    ["llm_timeout", "llm_timeout"],
    ["no_findings", "completed"],
  ])("worded by the template because of %s it is %s", async (fallback_reason, state) => {
    const { tenantId, name } = await database.addTenant();
    await runs.complete(tenantId, await runs.running(tenantId), 1, { ...BY_TEMPLATE, fallback_reason });
    expect(await reportOf(name)).toMatchObject({ state });
  });

  test("a dead letter shows its error, and the next run what it does", async () => {
    const { tenantId, name } = await database.addTenant();
    await runs.fail(tenantId, await runs.running(tenantId), 1, "analysis_invalid");
    expect(await reportOf(name)).toMatchObject({ state: "analysis_invalid" });
    await runs.add(tenantId);
    expect(await reportOf(name)).toMatchObject({ state: "running" });
  });

  test("what failed for good before it is named, however it was worded", async () => {
    const { tenantId, name } = await database.addTenant();
    const input = { without: ["cost_import", "detection"] };
    const first = await scheduled(tenantId, "analysis", 3_600, input);
    await runs.complete(tenantId, first, 1, byModel([]));
    expect(await reportOf(name)).toMatchObject({ state: "completed without cost_import, detection" });
    const second = await scheduled(tenantId, "analysis", 7_200, { without: ["cost_import"] });
    expect(await reportOf(name)).toMatchObject({ state: "running" });
    await runs.complete(tenantId, second, 1, BY_TEMPLATE);
    expect(await reportOf(name)).toMatchObject({ state: "llm_unavailable without cost_import" });
  });

  test("a turn that has begun runs until its analysis has ended", async () => {
    const { tenantId, name } = await database.addTenant();
    await scheduled(tenantId, "detection", 3_600);
    expect(await reportOf(name)).toMatchObject({ state: "running" });
  });

  test("savings of two currencies are not added: they are unknown", async () => {
    const { tenantId, name } = await database.addTenant();
    const shift = { 0: 160, 1: 160, 2: 160 };
    const euro = { billing_currency: "EUR", billing_account_id: "eu" };
    await costs.load(tenantId, [...costOf("EC2", 100, shift), ...costOf("EC2", 100, shift, euro)]);
    const runId = await runs.running(tenantId);
    await detect(tenantId, runId);
    expect(await reportOf(name)).toMatchObject({ findings: "2", saving: null });
  });

  test("left is of the tighter budget, and below zero after a cut", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "5" });
    await ledger.setBudget(name, "0.5", "day");
    expect(await reportOf(name)).toMatchObject({ left: "0.5" });
    await ledger.reserve(tenantId);
    await ledger.setBudget(name, "0", "day");
    expect(await reportOf(name)).toMatchObject({ left: "-0.001" });
    await refusal(ledger.reserve(tenantId), "budget_exceeded");
  });

  test("left is of the tenant as a whole; unlimited leaves it to the tighter one, if there is one", async () => {
    const { name } = await database.addTenant({ limitUsd: "5" });
    const set = (args: string) =>
      database.ops.query(`select ops.set_limit($1, ${args}, reason => 'test')`, [name]);
    await set("0, scope => 'user', scope_id => 'ada'");
    expect(await reportOf(name)).toMatchObject({ left: "5" });
    await set("null, unlimited => true");
    expect(await reportOf(name)).toMatchObject({ left: "Infinity" });
    expect(await seen('select "left" from ops.report_text where tenant = $1', [name])).toEqual([
      { left: "unlimited" },
    ]);
    await set("0.25, period => 'day'");
    expect(await reportOf(name)).toMatchObject({ left: "0.25" });
  });

  test("left is of the period that runs, where another that overlaps it has been left", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "5" });
    await ledger.reserve(tenantId);
    expect(await reportOf(name)).toMatchObject({ left: "4.999" });
    const day = new Date().getUTCDate() === 1 ? 2 : new Date().getUTCDate();
    await database.ops.query("select ops.tenant_set($1, 'as invoiced', anchor_day => $2)", [name, day]);
    expect(await reportOf(name)).toMatchObject({ left: "5" });
  });

  test("a tenant without a budget has nothing left to tell", async () => {
    const { tenantId, name } = await database.addTenant();
    await database.superuser.query("delete from app.llm_budgets where tenant_id = $1", [tenantId]);
    expect(await reportOf(name)).toMatchObject({ left: null });
    expect(await seen('select "left" from ops.report_text where tenant = $1', [name])).toEqual([
      { left: "no budget" },
    ]);
  });

  test("every tenant once, the higher tiers first", async () => {
    const tiers = (await seen("select tier from ops.report")).map((row) =>
      ["HIGH_VALUE", "ACTIVE", "DORMANT"].indexOf(row["tier"]),
    );
    expect(tiers).toEqual([...tiers].sort((a, b) => a - b));
    const [count] = await seen(
      "select (select count(*) from ops.report) = (select count(*) from ops.tenants) as same",
    );
    expect(count).toEqual({ same: true });
  });
});

test("findings: in words, best first", async () => {
  const { tenantId, name } = await database.addTenant();
  await costs.load(tenantId, THREE_FINDINGS);
  await detect(tenantId, await runs.running(tenantId));
  const listed = await seen("select * from ops.findings where tenant = $1", [name]);
  expect(listed.map((each) => each["rank"])).toEqual([1, 2, 3]);
  expect(listed[0]).toMatchObject({
    severity: "medium",
    saving: String(60 * 30.4375),
    cur: "USD",
    headline: "EC2 has cost 60.00 USD a day too much since 14 Nov 2024",
    state: "open",
    narrated_by: "template",
  });
});

test("imports: what came of each file", async () => {
  const { tenantId, name } = await database.addTenant();
  await costs.load(tenantId, [usage("2026-10-10", 1, { provider_name: null })]);
  const failed = await costs.start(tenantId, "aws", "bad.csv");
  await costs.fail(tenantId, failed, { code: "focus_invalid", line: 517 });
  expect(await seen("select * from ops.imports where tenant = $1", [name])).toMatchObject([
    { status: "FAILED", file_name: "bad.csv", error: { code: "focus_invalid", line: 517 } },
    {
      status: "PUBLISHED",
      file_name: "costs.csv",
      source: "aws",
      lines: "1",
      flagged: "1",
      flags: { missing_provider: 1 },
      error: null,
    },
  ]);
});

describe("people may look, and change only through functions", () => {
  const VIEWS = [
    "report",
    "findings",
    "budgets",
    "imports",
    "llm_calls",
    "reservations_presumed",
    "tenants",
    "audit_log",
  ];

  test.each(VIEWS)("ops.%s", async (view) => {
    await seen(`select * from ops.${view} limit 1`);
    await expect(seen(`delete from ops.${view}`)).rejects.toMatchObject({
      code: expect.stringMatching(/^(42501|55000)$/),
    });
    for (const { pool } of [database.service, database.worker]) {
      await expect(pool.query(`select * from ops.${view}`)).rejects.toMatchObject({ code: "42501" });
    }
  });

  test("the audit log can be neither written nor rewritten by hand", async () => {
    for (const text of [
      "insert into ops.audit_log (action, subject, reason) values ('x', 'x', 'because')",
      "update ops.audit_log set reason = 'other'",
      "truncate ops.audit_log",
    ]) {
      await expect(seen(text)).rejects.toMatchObject({ code: "42501" });
    }
  });

  test("no table of a tenant is open to them", async () => {
    await expect(seen("select * from app.findings")).rejects.toMatchObject({ code: "42501" });
    await expect(seen("select * from app.tenants")).rejects.toMatchObject({ code: "42501" });
  });
});
