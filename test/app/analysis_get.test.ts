// sql/app/analysis_get.sql: how an analysis stands, and what it cost.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { oneAs, type Row, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { analysesOf, byModel } from "../support/findings.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const { runs, scheduled } = analysesOf(database);
let tenantId = "";

const GET = "select * from app.analysis_get($1, $2, $3)";
const get = (of: string, id: string): Promise<Row> => oneAs(database.service, of, GET, [id]);

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await ledger.setPrices();
});

describe("it works", () => {
  test("from waiting to worded", async () => {
    const id = await runs.add(tenantId);
    expect(await get(tenantId, id)).toMatchObject({
      id,
      run_id: id,
      status: "PENDING",
      narrated_by: null,
      findings: null,
      llm_reserved_nanousd: "0",
      llm_settled_nanousd: "0",
      error_code: null,
      started_at: null,
      finished_at: null,
    });
    await runs.claim(tenantId, id);
    expect(await get(tenantId, id)).toMatchObject({
      status: "RUNNING",
      started_at: expect.any(Date),
      finished_at: null,
    });
    await runs.complete(tenantId, id, 1, byModel([], "Nothing stands out."));
    expect(await get(tenantId, id)).toMatchObject({
      status: "COMPLETED",
      narrated_by: "model",
      fallback_reason: null,
      provider: "offline",
      model: "offline-analyst",
      summary: "Nothing stands out.",
      findings: 0,
      error_code: null,
      finished_at: expect.any(Date),
    });
  });

  test("without what it was made: what failed before it in its turn", async () => {
    const id = await scheduled(tenantId, "analysis", 3_600, { without: ["cost_import"] });
    expect(await get(tenantId, id)).toMatchObject({ status: "RUNNING", without: [] });
    await runs.complete(tenantId, id, 1, byModel([]));
    expect(await get(tenantId, id)).toMatchObject({ status: "COMPLETED", without: ["cost_import"] });
  });

  test("what its calls held and cost, and no other's", async () => {
    const id = await runs.running(tenantId);
    const [first, second] = [
      await ledger.reserve(tenantId, { runId: id }),
      await ledger.reserve(tenantId, { runId: id, attempt: 2 }),
    ];
    await ledger.reserve(tenantId, { runId: await runs.add(tenantId) });
    await ledger.reserve(tenantId);
    await ledger.settle(tenantId, first["id"], 100, 20);
    await ledger.presume(tenantId, second["id"]);
    expect(await get(tenantId, id)).toMatchObject({
      llm_reserved_nanousd: "2000000",
      llm_settled_nanousd: "140000",
      llm_reserved_usd: "0.002",
      llm_settled_usd: "0.00014",
    });
  });

  test("one that is tried again is pending and says why; one that failed for good is failed", async () => {
    const id = await runs.running(tenantId);
    await runs.fail(tenantId, id, 1, "llm_timeout");
    expect(await get(tenantId, id)).toMatchObject({
      status: "PENDING",
      error_code: "llm_timeout",
      finished_at: null,
    });
    await runs.makeDue(id);
    await runs.claim(tenantId, id);
    await runs.fail(tenantId, id, 2, "analysis_invalid");
    expect(await get(tenantId, id)).toMatchObject({
      status: "FAILED",
      error_code: "analysis_invalid",
      finished_at: expect.any(Date),
    });
  });

  test.each([
    ["budget_exceeded", "budget_exceeded"],
    ["no_price", "no_price"],
    ["llm_timeout", null],
    ["no_findings", null],
  ])("worded by the template because of %s, its error is %s", async (fallback_reason, error_code) => {
    const id = await runs.running(tenantId);
    await runs.complete(tenantId, id, 1, { narrated_by: "template", fallback_reason, items: [] });
    expect(await get(tenantId, id)).toMatchObject({
      status: "COMPLETED",
      narrated_by: "template",
      fallback_reason,
      error_code,
    });
  });

  test("it works twice: looking changes nothing", async () => {
    const id = await runs.add(tenantId);
    expect(await get(tenantId, id)).toEqual(await get(tenantId, id));
  });
});

describe("it refuses", () => {
  test("what is not there, is no analysis, or has no id", async () => {
    const other = await runs.add(tenantId, await runs.addKind("plain"));
    for (const id of [randomUUID(), other, null as unknown as string]) {
      expect((await refusal(get(tenantId, id), "analysis_not_found")).status).toBe(404);
    }
  });
});

test("a stranger gets nothing, and cannot tell a foreign analysis from none", async () => {
  const id = await runs.add(tenantId);
  const stranger = await strangerIsRefused(database, database.service, tenantId, GET, [id]);
  const [foreign, absent] = [
    await refusal(get(stranger.tenantId, id), "analysis_not_found"),
    await refusal(get(stranger.tenantId, randomUUID()), "analysis_not_found"),
  ];
  expect([foreign.message, foreign.detail, foreign.hint]).toEqual([
    absent.message,
    absent.detail,
    absent.hint,
  ]);
});
