// sql/ops/budgets.sql: each budget in the period that runs now, in dollars.
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import { as, type Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
let tenant = { tenantId: "", name: "" };

beforeAll(() => ledger.setPrices());
beforeEach(async () => {
  tenant = await database.addTenant({ limitUsd: "5" });
});

const budgets = async (): Promise<Row[]> =>
  (await database.ops.query("select * from ops.budgets where tenant = $1", [tenant.name])).rows;
const setLimit = (limit: string | null, args: string) =>
  database.ops.query(`select ops.set_limit($1, $2, 'test', ${args})`, [tenant.name, limit]);
const setTenant = (args: string) =>
  database.ops.query(`select ops.tenant_set($1, 'they moved', ${args})`, [tenant.name]);
/** A call of 0.001 dollars, settled at 0.0001. */
const spend = async () =>
  ledger.settle(tenant.tenantId, (await ledger.reserve(tenant.tenantId))["id"], 100, 0);

test("the month of a new tenant, what matters first", async () => {
  const [budget, ...others] = await budgets();
  expect(others).toEqual([]);
  expect(budget).toEqual({
    tenant: tenant.name,
    scope: "tenant",
    scope_id: "",
    period: "month",
    limit_usd: "5",
    spent_usd: "0",
    reserved_usd: "0",
    presumed_usd: "0",
    left_usd: "5",
    hard_limit: true,
    period_end: expect.any(Date),
    version: "1",
    monthly_limit_usd: "5",
    current_month_usage_usd: "0",
    created_at: expect.any(Date),
    updated_at: expect.any(Date),
  });
  expect(Object.keys(budget!)).toEqual([
    ...["tenant", "scope", "scope_id", "period", "limit_usd", "spent_usd", "reserved_usd", "presumed_usd"],
    ...["left_usd", "hard_limit", "period_end", "version"],
    ...["monthly_limit_usd", "current_month_usage_usd", "created_at", "updated_at"],
  ]);
});

test("what is spent, held and presumed, of each scope and period; months under the names of operators", async () => {
  await setLimit("1", "period => 'day'");
  await setLimit("2", "period => 'total'");
  await setLimit("3", "scope => 'model', scope_id => 'p/m'");
  await setLimit("4", "scope => 'user', scope_id => 'ada', period => 'week'");
  await ledger.presume(tenant.tenantId, (await ledger.reserve(tenant.tenantId))["id"]);
  await ledger.reserve(tenant.tenantId);
  await spend();
  const spent = { spent_usd: "0.0001", reserved_usd: "0.001", presumed_usd: "0.001", hard_limit: true };
  const month = { period: "month", current_month_usage_usd: "0.0001" };
  const noMonth = { monthly_limit_usd: null, current_month_usage_usd: null };
  expect(await budgets()).toMatchObject([
    { scope: "tenant", period: "day", limit_usd: "1", left_usd: "0.9979", ...spent, ...noMonth },
    { scope: "tenant", limit_usd: "5", left_usd: "4.9979", monthly_limit_usd: "5", ...spent, ...month },
    {
      ...{ scope: "tenant", period: "total", period_end: null, limit_usd: "2", left_usd: "1.9979" },
      ...{ ...spent, ...noMonth },
    },
    {
      ...{ scope: "model", scope_id: "p/m", limit_usd: "3", left_usd: "2.9979", monthly_limit_usd: "3" },
      ...{ ...spent, ...month },
    },
    {
      scope: "user",
      scope_id: "ada",
      period: "week",
      limit_usd: "4",
      spent_usd: "0",
      left_usd: "4",
      ...noMonth,
    },
  ]);
  expect(await budgets()).toEqual(await budgets());
});

test("it says what the tenant is told of itself", async () => {
  await setTenant("time_zone => 'Pacific/Apia', anchor_day => 31");
  for (const period of ["day", "week", "total"]) await setLimit("1", `period => '${period}'`);
  await spend();
  const columns =
    "scope, scope_id, period, period_end, limit_usd, spent_usd, reserved_usd, presumed_usd, left_usd";
  const told = await as(
    database.service,
    tenant.tenantId,
    `select ${columns} from app.budget_status($1, $2)`,
  );
  expect(told.map((row) => row["spent_usd"])).toEqual(["0.0001", "0.0001", "0.0001", "0.0001"]);
  const { rows } = await database.ops.query(`select ${columns} from ops.budgets where tenant = $1`, [
    tenant.name,
  ]);
  expect(rows).toEqual(told);
});

test("after a cut less than nothing is left", async () => {
  await spend();
  await setLimit("0.00004", "period => 'month'");
  expect(await budgets()).toMatchObject([{ left_usd: "-0.00006", hard_limit: true, version: "2" }]);
  const [{ created_at, updated_at }] = (await budgets()) as [Row];
  expect(updated_at.getTime()).toBeGreaterThan(created_at.getTime());
});

test("dollars are exact to the nano-USD, however many they are", async () => {
  await setLimit("999999999.123456789", "period => 'month'");
  await spend();
  const exact = { limit_usd: "999999999.123456789", monthly_limit_usd: "999999999.123456789" };
  expect(await budgets()).toMatchObject([{ ...exact, left_usd: "999999999.123356789" }]);
});

test("unlimited: no limit, nothing left to tell, not hard; what is spent counts", async () => {
  await setLimit(null, "unlimited => true");
  await spend();
  expect(await budgets()).toMatchObject([
    {
      ...{ limit_usd: null, left_usd: null, hard_limit: false, monthly_limit_usd: null },
      ...{ spent_usd: "0.0001", current_month_usage_usd: "0.0001" },
    },
  ]);
});

describe("the period is the one that the next call would be held in", () => {
  /** Another day than the first, on which this month's period, or the last month's, has begun. */
  const anchor = new Date().getUTCDate() === 1 ? 2 : new Date().getUTCDate();
  const spent = async () => (await budgets()).map((row) => row["spent_usd"]);

  test("also where two overlap, since the anchor day was moved; and back", async () => {
    await spend();
    await setTenant(`anchor_day => ${anchor}`);
    expect(await spent()).toEqual(["0"]);
    await spend();
    await spend();
    expect(await spent()).toEqual(["0.0002"]);
    await setTenant("anchor_day => 1");
    expect(await spent()).toEqual(["0.0001"]);
  });

  test("and in the zone of the tenant", async () => {
    await setLimit("1", "period => 'day'");
    await spend();
    await setTenant("time_zone => 'Asia/Kolkata'");
    expect(await spent()).toEqual(["0", "0"]);
    const { rows } = await database.ops.query(
      "select period_end at time zone 'Asia/Kolkata' as at from ops.budgets where tenant = $1",
      [tenant.name],
    );
    for (const { at } of rows) expect([at.getHours(), at.getMinutes()]).toEqual([0, 0]);
  });
});

test("a stranger gets nothing", async () => {
  for (const { pool } of [database.service, database.worker])
    await expect(pool.query("select from ops.budgets")).rejects.toMatchObject({ code: "42501" });
});
