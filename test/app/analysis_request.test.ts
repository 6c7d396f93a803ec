// sql/app/analysis_request.sql: an analysis now, if there is money for it.
import { beforeAll, describe, expect, test } from "vitest";
import { oneAs, type Row, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const runs = runsOf(database);

const REQUEST = `select * from app.analysis_request($1, $2, provider => $3, model => 'm', input_tokens_bound => $4,
  max_output_tokens => $5, idempotency_key => $6)`;

type Asked = { provider?: string | null; input?: unknown; output?: unknown; key?: string | null };

const request = (
  tenantId: string,
  { provider = "p", input = 500, output = 250, key = null }: Asked = {},
): Promise<Row> => oneAs(database.service, tenantId, REQUEST, [provider, input, output, key]);

const runCount = async (tenantId: string): Promise<number> =>
  (
    await database.superuser.query("select count(*)::int as n from app.job_runs where tenant_id = $1", [
      tenantId,
    ])
  ).rows[0].n;

beforeAll(() => ledger.setPrices());

describe("it works", () => {
  test("a run is made, with its token, and nothing is held yet", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "0.001" });
    const asked = await request(tenantId);
    expect(asked).toEqual({
      id: asked["id"],
      run_id: asked["id"],
      status: "PENDING",
      created_at: expect.any(Date),
      replayed: false,
    });
    expect(await runs.row(asked["id"])).toMatchObject({
      kind: "analysis",
      state: "PENDING",
      slot: null,
      tenant_id: tenantId,
    });
    expect(await runs.tokens(asked["id"])).toMatchObject([{ task: "run", key: `run:${asked["id"]}:0` }]);
    expect(await ledger.balances(tenantId)).toEqual([]);
    expect(await runs.claim(tenantId, asked["id"])).toMatchObject({ kind: "analysis", attempt: 1 });
  });

  test("with money to the last nano-USD", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "0.001" });
    await request(tenantId);
    await refusal(request(tenantId, { output: 251 }), "budget_exceeded");
    await request(tenantId, { provider: "free", output: 9_999 });
  });
});

describe("it works twice", () => {
  test("without a key, two requests are two analyses", async () => {
    const { tenantId } = await database.addTenant();
    expect((await request(tenantId))["id"]).not.toBe((await request(tenantId))["id"]);
  });

  test("the same key answers the first again, as it stands, though the money is gone", async () => {
    const { tenantId, name } = await database.addTenant();
    const first = await request(tenantId, { key: "k" });
    expect(first["replayed"]).toBe(false);
    const again = { ...first, replayed: true };
    await ledger.setBudget(name, "0");
    expect(await request(tenantId, { key: "k" })).toEqual(again);
    await runs.claim(tenantId, first["id"]);
    expect(await request(tenantId, { key: "k" })).toEqual({ ...again, status: "RUNNING" });
    await runs.fail(tenantId, first["id"], 1);
    expect(await request(tenantId, { key: "k" })).toEqual({ ...again, status: "PENDING" });
    expect(await runCount(tenantId)).toBe(1);
  });

  test("twenty at once with one key are one analysis and one token", async () => {
    const { tenantId } = await database.addTenant();
    const answers = await Promise.all(Array.from({ length: 20 }, () => request(tenantId, { key: "k" })));
    const ids = new Set(answers.map((answer) => answer["id"]));
    expect(ids.size).toBe(1);
    expect(answers.filter((answer) => answer["replayed"] === false)).toHaveLength(1);
    expect(await runCount(tenantId)).toBe(1);
    expect(await runs.tokens([...ids][0])).toHaveLength(1);
  });

  test("a refused request leaves its key free", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "0" });
    await refusal(request(tenantId, { key: "k" }), "budget_exceeded");
    await ledger.setBudget(name, "1");
    await request(tenantId, { key: "k" });
  });

  test("another tenant may use the same key", async () => {
    const [one, other] = [await database.addTenant(), await database.addTenant()];
    expect((await request(one.tenantId, { key: "k" }))["id"]).not.toBe(
      (await request(other.tenantId, { key: "k" }))["id"],
    );
  });
});

describe("it refuses, and makes no run", () => {
  test.each<[string, string, Asked, string, number]>([
    ["a budget of zero", "0", {}, "budget_exceeded", 402],
    ["a budget of zero, a free model too", "0", { provider: "free" }, "budget_exceeded", 402],
    ["a call that does not fit", "0.0009", {}, "budget_exceeded", 402],
    ["a model without a price", "1", { provider: "unheard-of" }, "no_price", 402],
    ["no provider", "1", { provider: null }, "no_price", 402],
    ["a negative bound", "1", { input: -1 }, "reservation_invalid", 400],
    ["no bound", "1", { output: null }, "reservation_invalid", 400],
    ["a huge bound", "1", { input: "9223372036854775807" }, "reservation_invalid", 400],
    ["an empty key", "1", { key: "" }, "argument_invalid", 400],
    ["a key of 256 characters", "1", { key: "k".repeat(256) }, "argument_invalid", 400],
  ])("%s", async (_, limitUsd, asked, code, status) => {
    const { tenantId } = await database.addTenant({ limitUsd });
    expect((await refusal(request(tenantId, asked), code)).status).toBe(status);
    expect(await runCount(tenantId)).toBe(0);
    const { rows } = await database.superuser.query("select from app.job_run_keys where tenant_id = $1", [
      tenantId,
    ]);
    expect(rows).toEqual([]);
  });

  test("a tenant without a budget", async () => {
    const { tenantId } = await database.addTenant();
    await database.superuser.query("delete from app.llm_budgets where tenant_id = $1", [tenantId]);
    expect((await refusal(request(tenantId), "budget_exceeded")).detail).toMatchObject({
      reason: "no_budget",
    });
  });
});

test("a stranger gets nothing", async () => {
  const { tenantId } = await database.addTenant();
  const first = await request(tenantId, { key: "k" });
  const stranger = await strangerIsRefused(database, database.service, tenantId, REQUEST, [
    "p",
    500,
    250,
    "k",
  ]);
  expect((await request(stranger.tenantId, { key: "k" }))["id"]).not.toBe(first["id"]);
  expect(await runCount(tenantId)).toBe(1);
});
