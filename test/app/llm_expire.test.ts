// sql/app/llm_expire.sql: what was held too long is presumed, among all tenants.
import { beforeAll, describe, expect, test } from "vitest";
import { besides, type Row, refusal } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const { reserve, balances, broken } = ledger;

beforeAll(() => ledger.setPrices());

const expired = async (maxRows = 500): Promise<Row[]> =>
  (await database.worker.pool.query("select * from app.llm_expire($1)", [maxRows])).rows;

const expire = async (maxRows?: number): Promise<number> => (await expired(maxRows)).length;

describe("it works", () => {
  test("a hold past its time is presumed, of whatever tenant, and no other", async () => {
    const [one, other] = [await database.addTenant(), await database.addTenant()];
    const late = [await reserve(one.tenantId, { ttl: "0" }), await reserve(other.tenantId, { ttl: "0" })];
    const early = await reserve(one.tenantId, { ttl: "1 hour" });
    expect(await expire()).toBe(2);
    for (const { id } of late as { id: string }[]) {
      expect(await ledger.hold(id)).toMatchObject({ status: "PRESUMED", reason: "expired", closed_at: null });
    }
    expect(await ledger.hold(early["id"])).toMatchObject({ status: "RESERVED" });
    expect(await balances(one.tenantId)).toEqual([
      { period: "month", reserved: 1_000_000, presumed: 1_000_000, spent: 0 },
    ]);
    expect(await balances(other.tenantId)).toEqual([
      { period: "month", reserved: 0, presumed: 1_000_000, spent: 0 },
    ]);
    expect(await broken()).toEqual([]);
  });

  test("it tells which, whose, and of which run", async () => {
    const [one, other] = [await database.addTenant(), await database.addTenant()];
    const runId = await runsOf(database).add(one.tenantId);
    const ofRun = await reserve(one.tenantId, { ttl: "0", runId });
    const ofClient = await reserve(other.tenantId, { ttl: "0" });
    const told = await expired();
    expect(told).toHaveLength(2);
    expect(told).toContainEqual({ tenant_id: one.tenantId, reservation_id: ofRun["id"], run_id: runId });
    expect(told).toContainEqual({ tenant_id: other.tenantId, reservation_id: ofClient["id"], run_id: null });
  });

  test("it frees nothing: an expired hold counts the same before and after", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "0.001" });
    await reserve(tenantId, { ttl: "0" });
    expect((await refusal(reserve(tenantId), "budget_exceeded")).detail["max_affordable_output_tokens"]).toBe(
      0,
    );
    await expire();
    expect((await refusal(reserve(tenantId), "budget_exceeded")).detail["max_affordable_output_tokens"]).toBe(
      0,
    );
  });

  test("many holds of several budgets move at once", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "1" });
    await ledger.setBudget(name, "1", "day");
    await ledger.setBudget(name, "1", "total");
    await Promise.all(
      Array.from({ length: 25 }, (_, i) => reserve(tenantId, { ttl: "0", input: i, output: 0 })),
    );
    expect(await expire()).toBe(25);
    const presumed = { reserved: 0, presumed: 300_000, spent: 0 };
    expect(await balances(tenantId)).toEqual([
      { period: "day", ...presumed },
      { period: "month", ...presumed },
      { period: "total", ...presumed },
    ]);
    expect(await broken()).toEqual([]);
  });
});

describe("it works twice", () => {
  test("what is presumed stays so, and the second time finds nothing", async () => {
    const { tenantId } = await database.addTenant();
    await reserve(tenantId, { ttl: "0" });
    expect(await expire()).toBe(1);
    const once = await balances(tenantId);
    expect(await expire()).toBe(0);
    expect(await balances(tenantId)).toEqual(once);
  });

  test("max_rows at a time, the longest overdue first", async () => {
    const { tenantId } = await database.addTenant();
    const [first, second, third] = [
      await reserve(tenantId, { ttl: "0" }),
      await reserve(tenantId, { ttl: "0" }),
      await reserve(tenantId, { ttl: "0" }),
    ];
    expect(await expire(2)).toBe(2);
    const states = await Promise.all(
      [first, second, third].map(async (each) => (await ledger.hold(each!["id"]))["status"]),
    );
    expect(states).toEqual(["PRESUMED", "PRESUMED", "RESERVED"]);
    expect(await expire(2)).toBe(1);
    expect(await broken()).toEqual([]);
  });

  test("a hold that is being settled is passed over, not waited for", async () => {
    const { tenantId } = await database.addTenant();
    const [busy, idle] = [await reserve(tenantId, { ttl: "0" }), await reserve(tenantId, { ttl: "0" })];
    const held = { text: "select from app.llm_reservations where id = $1", values: [busy["id"]] };
    const text = "select reservation_id from app.llm_expire()";
    expect(await besides(database, held, database.worker, text)).toEqual([{ reservation_id: idle["id"] }]);
    expect([(await ledger.hold(busy["id"]))["status"], (await ledger.hold(idle["id"]))["status"]]).toEqual([
      "RESERVED",
      "PRESUMED",
    ]);
    expect(await expire()).toBe(1);
  });

  test("eight sweepers at once move each hold once, while others settle and reserve", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "1" });
    const holds = await Promise.all(Array.from({ length: 60 }, () => reserve(tenantId, { ttl: "0" })));
    const swept = Promise.all(Array.from({ length: 8 }, () => expire(20)));
    const settled = Promise.all(
      holds.slice(0, 20).map((hold) => ledger.settle(tenantId, hold["id"], 100, 0)),
    );
    const fresh = Promise.all(Array.from({ length: 10 }, () => reserve(tenantId)));
    const counts = await swept;
    await settled;
    await fresh;
    const rest = await expire();
    const moved = counts.reduce((sum, count) => sum + count, rest);
    expect(moved).toBeGreaterThanOrEqual(40);
    expect(moved).toBeLessThanOrEqual(60);
    expect(await balances(tenantId)).toEqual([
      { period: "month", reserved: 10_000_000, presumed: 40_000_000, spent: 2_000_000 },
    ]);
    expect(await broken()).toEqual([]);
  });
});

describe("it refuses", () => {
  test("who is neither the worker nor a person in psql", async () => {
    await expect(database.service.pool.query("select app.llm_expire()")).rejects.toMatchObject({
      code: "42501",
    });
    await database.ops.query("select app.llm_expire()");
  });
});
