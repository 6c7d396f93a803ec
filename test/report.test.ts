// The report, on tenants in every state that it can show.
import { describe, expect, it } from "vitest";
import { analysisRequest } from "../src/analyses.ts";
import { jobClaim, jobComplete, jobFail } from "../src/jobs.ts";
import { OFFLINE } from "../src/llm.ts";
import { ANALYSIS_BOUND } from "../src/narrative.ts";
import { reportJson, reportTable, runsLeft } from "../src/report.ts";
import { testDatabase } from "./support/database.ts";

const database = testDatabase();
const ops = { pool: database.ops };

async function report(): Promise<Record<string, unknown>[]> {
  return JSON.parse(await reportJson(ops)).tenants;
}

function ask(tenantId: string): ReturnType<typeof analysisRequest> {
  return analysisRequest(database.service, tenantId, {
    provider: OFFLINE.name,
    model: OFFLINE.model,
    inputTokensBound: ANALYSIS_BOUND.inputTokens,
    maxOutputTokens: ANALYSIS_BOUND.maxOutputTokens,
    idempotencyKey: undefined,
  });
}

/** Ends a run for good, with an error that no second attempt mends. */
async function fail(tenantId: string, runId: string): Promise<void> {
  const [claimed] = await jobClaim(database.worker, "test", [{ tenantId, runId }]);
  await jobFail(database.worker, tenantId, runId, claimed!.attempt, {
    code: "sqlstate_22000",
    message: "a test",
  });
}

describe("without a tenant", () => {
  it("is a document with an empty list, and a table of headings", async () => {
    expect(JSON.parse(await reportJson(ops))).toEqual({ tenants: [] });
    const [headings, rule, blank, ...meaning] = (await reportTable(ops)).split("\n");
    expect(headings).toMatch(/^tenant +tier +rows imported +flagged +findings +saving/);
    expect(rule).toMatch(/^─+( +─+){9}$/);
    expect(blank).toBe("");
    expect(meaning.join(" ")).toContain("data-quality");
    expect(await runsLeft(ops)).toEqual({ live: 0, ended: 0 });
  });
});

describe("with tenants", () => {
  const NAMES = ["Plain", `"; drop table x -- 'quoted' \\ <b>`, "Größe & Söhne 日本", "x".repeat(100)];

  it("lines up names of any length and letters, and escapes them in JSON", async () => {
    for (const name of NAMES) await database.addTenant({ name, limitUsd: "1234.5", tier: "DORMANT" });
    expect((await report()).map((line) => line["tenant"])).toEqual(expect.arrayContaining(NAMES));

    const [headings, rule, ...rows] = (await reportTable(ops)).split("\n\n")[0]!.split("\n");
    expect(rows).toHaveLength(NAMES.length);
    const starts = [...rule!.matchAll(/─+/g)].map((match) => match.index);
    expect(starts).toHaveLength(10);
    for (const line of [headings!, ...rows]) {
      for (const start of starts.slice(1)) expect(line.slice(start - 2, start), line).toBe("  ");
    }
    for (const row of rows)
      expect(row).toMatch(/DORMANT.* {2}- {2}.*\$0\.0000 .*\$1,234\.50 {2}no_analysis$/);
  });

  it("tells how each analysis stands, and orders by tier", async () => {
    const waiting = await database.addTenant({ name: "Waiting", tier: "HIGH_VALUE" });
    const broken = await database.addTenant({ name: "Broken", tier: "ACTIVE" });
    await ask(waiting.tenantId);
    const { run_id } = await ask(broken.tenantId);
    expect(await runsLeft(ops)).toEqual({ live: 2, ended: 0 });
    expect(await runsLeft(ops, broken.tenantId)).toEqual({ live: 1, ended: 0 });

    await fail(broken.tenantId, run_id);
    expect(await runsLeft(ops)).toEqual({ live: 1, ended: 1 });
    expect(await runsLeft(ops, broken.tenantId)).toEqual({ live: 0, ended: 1 });
    const lines = await report();
    expect(lines.map((line) => line["tier"])).toEqual([
      "HIGH_VALUE",
      "ACTIVE",
      ...NAMES.map(() => "DORMANT"),
    ]);
    expect(lines.slice(0, 2)).toMatchObject([
      { tenant: "Waiting", state: "running", rows: 0, findings: 0, saving: null, left: 10 },
      { tenant: "Broken", state: "sqlstate_22000", rows: 0, findings: 0, saving: null, left: 10 },
    ]);
  });

  it("counts a run that waits for its next attempt among those that are left", async () => {
    const { tenantId } = await database.addTenant();
    const { run_id } = await ask(tenantId);
    const [claimed] = await jobClaim(database.worker, "test", [{ tenantId, runId: run_id }]);
    await jobFail(database.worker, tenantId, run_id, claimed!.attempt, {
      code: "internal_error",
      message: "x",
    });
    expect(await runsLeft(ops, tenantId)).toEqual({ live: 1, ended: 0 });
  });

  it("counts a turn as one until its last kind has ended: the next is there when the one before ends", async () => {
    const { tenantId, name } = await database.addTenant();
    const { rows } = await database.superuser.query(
      "insert into app.job_runs (tenant_id, kind, slot) values ($1, 'detection', 3600) returning id",
      [tenantId],
    );
    const state = async () => (await report()).find((line) => line["tenant"] === name)?.["state"];
    expect([await runsLeft(ops, tenantId), await state()]).toEqual([{ live: 1, ended: 0 }, "running"]);
    await fail(tenantId, rows[0].id);
    expect([await runsLeft(ops, tenantId), await state()]).toEqual([{ live: 1, ended: 1 }, "running"]);
    const next = await database.superuser.query(
      "select id from app.job_runs where tenant_id = $1 and kind = 'analysis'",
      [tenantId],
    );
    const runId = next.rows[0].id;
    const [claimed] = await jobClaim(database.worker, "test", [{ tenantId, runId }]);
    const result = { narrated_by: "template", fallback_reason: "no_findings", items: [] };
    await jobComplete(database.worker, tenantId, runId, claimed!.attempt, result);
    expect([await runsLeft(ops, tenantId), await state()]).toEqual([
      { live: 0, ended: 2 },
      "completed without detection",
    ]);
  });

  it("is exact to the last nano-dollar", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "0.123456789" });
    expect((await report()).find((line) => line["tenant"] === name)?.["left"]).toBe(0.123456789);
    const { rows } = await database.superuser.query(
      `select id from app.llm_reserve($1, $2, idempotency_key => 'k', provider => 'offline',
         model => 'offline-analyst', input_tokens_bound => 1, max_output_tokens => 1)`,
      [tenantId, database.ticket(tenantId)],
    );
    const [held] = (
      await database.superuser.query(
        "select estimated_cost_nanousd::int as nano from app.llm_reservations where id = $1",
        [rows[0].id],
      )
    ).rows;
    expect(held.nano).toBeGreaterThan(0);
    const left = (await report()).find((line) => line["tenant"] === name)?.["left"];
    expect(left).toBeCloseTo(0.123456789 - held.nano / 1e9, 12);
  });

  it("is refused to every login but that of people", async () => {
    for (const pool of [database.service.pool, database.worker.pool]) {
      await expect(reportJson({ pool })).rejects.toThrow(/permission denied/);
    }
  });
});
