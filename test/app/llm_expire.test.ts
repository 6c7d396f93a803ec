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

/** Moves a hold of 1,000,000 nano-USD, and what it counts, into the period before its own. */
async function earlier(tenantId: string, id: string): Promise<void> {
  await database.superuser.query(
    `with hold as (
       update app.llm_reservation_budgets as h set period_start = p.period_start - interval '1 month'
       from app.llm_budget_periods as p
       where h.tenant_id = $1 and h.reservation_id = $2
         and p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start
       returning p.*),
     less as (
       update app.llm_budget_periods as p set reserved_nanousd = p.reserved_nanousd - 1000000
       from hold as h
       where p.tenant_id = h.tenant_id and p.budget_id = h.budget_id and p.period_start = h.period_start)
     insert into app.llm_budget_periods (tenant_id, budget_id, period_start, period_end, reserved_nanousd,
       admitted_limit_nanousd)
     select tenant_id, budget_id, period_start - interval '1 month', period_start, 1000000, admitted_limit_nanousd
     from hold`,
    [tenantId, id],
  );
  expect(await broken()).toEqual([]);
}

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
    // A refusal is heard before its locks are gone, and what is locked is passed over: they are waited for.
    await database.superuser.query("select from app.llm_budget_periods where tenant_id = $1 for update", [
      tenantId,
    ]);
    expect(await expire()).toBe(1);
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

  test("a hold of several budgets waits for all of them: one that is locked keeps it whole", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "1" });
    await ledger.setBudget(name, "1", "day");
    await ledger.setBudget(name, "1", "total");
    const late = [await reserve(tenantId, { ttl: "0" }), await reserve(tenantId, { ttl: "0" })];
    const other = await reserve((await database.addTenant()).tenantId, { ttl: "0" });
    const reserved = (await balances(tenantId)).map((each) => [each.period, each.reserved, each.presumed]);
    for (const period of ["day", "month", "total"]) {
      const text = `select from app.llm_budget_periods as p
        where (p.tenant_id, p.budget_id) in (select tenant_id, id from app.llm_budgets where tenant_id = $1 and period = $2)`;
      const held = { text, values: [tenantId, period] };
      const ids = await besides(
        database,
        held,
        database.worker,
        "select reservation_id as id from app.llm_expire()",
      );
      // The first time there is one of another tenant, which nothing keeps.
      expect(ids, period).toEqual(period === "day" ? [{ id: other["id"] }] : []);
      for (const { id } of late as { id: string }[])
        expect(await ledger.hold(id)).toMatchObject({ status: "RESERVED", reason: null });
      expect((await balances(tenantId)).map((each) => [each.period, each.reserved, each.presumed])).toEqual(
        reserved,
      );
      expect(await broken()).toEqual([]);
    }
    // Of two at once each may find what the other has locked; what they leave is the next one's.
    const moved = [...(await Promise.all([expire(), expire()])), await expire()];
    expect(moved.reduce((sum, each) => sum + each)).toBe(2);
    expect(await balances(tenantId)).toEqual(
      reserved.map(([period, amount]) => ({ period, reserved: 0, presumed: amount, spent: 0 })),
    );
    expect(await broken()).toEqual([]);
  });

  test("a month that is locked keeps its own holds, not those of another month", async () => {
    const { tenantId } = await database.addTenant();
    const [old, late] = [await reserve(tenantId, { ttl: "0" }), await reserve(tenantId, { ttl: "0" })];
    await earlier(tenantId, old["id"]);
    const text =
      "select from app.llm_budget_periods where tenant_id = $1 and period_start > now() - interval '1 month'";
    const held = { text, values: [tenantId] };
    const ids = await besides(
      database,
      held,
      database.worker,
      "select reservation_id as id from app.llm_expire()",
    );
    expect(ids).toEqual([{ id: old["id"] }]);
    expect(await ledger.hold(late["id"])).toMatchObject({ status: "RESERVED" });
    expect(await broken()).toEqual([]);
    expect(await expire()).toBe(1);
    expect(await broken()).toEqual([]);
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
