// sql/app/budget_status.sql: what a tenant may still spend.
import { beforeAll, describe, expect, test } from "vitest";
import { as, oneAs, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);

const STATUS = "select * from app.budget_status($1, $2)";

beforeAll(() => ledger.setPrices());

describe("it works", () => {
  test("before the first call the whole limit is left", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "12.5" });
    const status = await oneAs(database.service, tenantId, STATUS);
    expect(status).toMatchObject({
      scope: "tenant",
      period: "month",
      hard: true,
      limit_nanousd: "12500000000",
      spent_nanousd: "0",
      reserved_nanousd: "0",
      presumed_nanousd: "0",
      left_nanousd: "12500000000",
      limit_usd: "12.5",
      left_usd: "12.5",
    });
    expect(status["period_start"].getTime()).toBeLessThanOrEqual(Date.now());
    expect(status["period_end"].getTime()).toBeGreaterThan(Date.now());
    expect(await ledger.balances(tenantId)).toEqual([]); // looking makes no period
  });

  test("what is held, presumed and spent is not left, to the nano-USD", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "0.01" });
    await ledger.reserve(tenantId);
    await ledger.presume(tenantId, (await ledger.reserve(tenantId, { input: 1, output: 0 }))["id"]);
    await ledger.settle(tenantId, (await ledger.reserve(tenantId))["id"], 0, 1);
    expect(await oneAs(database.service, tenantId, STATUS)).toMatchObject({
      reserved_nanousd: "1000000",
      presumed_nanousd: "1000",
      spent_nanousd: "2000",
      left_nanousd: "8997000",
      reserved_usd: "0.001",
      presumed_usd: "0.000001",
      spent_usd: "0.000002",
      left_usd: "0.008997",
    });
  });

  test("each budget has its own line and its own period", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "1", timeZone: "Asia/Kolkata" });
    for (const period of ["day", "week", "total"]) await ledger.setBudget(name, "0.5", period);
    await ledger.reserve(tenantId);
    const rows = await as(database.service, tenantId, STATUS);
    expect(rows.map((row) => row["period"])).toEqual(["day", "month", "total", "week"]);
    expect(rows.map((row) => row["left_usd"])).toEqual(["0.499", "0.999", "0.499", "0.499"]);
    const [day, , total] = rows;
    expect(day!["period_end"].getTime() - day!["period_start"].getTime()).toBe(86_400_000);
    expect(day!["period_start"].toISOString()).toMatch(/T18:30:00.000Z$/); // midnight in Kolkata
    expect([total!["period_start"], total!["period_end"]]).toEqual([null, null]); // it has no end
  });

  test("after a cut below what was spent, less than nothing is left", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "1" });
    await ledger.settle(
      tenantId,
      (await ledger.reserve(tenantId, { input: 600_000, output: 0 }))["id"],
      600_000,
      0,
    );
    await ledger.setBudget(name, "0.5");
    expect(await oneAs(database.service, tenantId, STATUS)).toMatchObject({
      spent_usd: "0.6",
      left_usd: "-0.1",
    });
  });

  test("a tenant without a budget has no line", async () => {
    const { tenantId } = await database.addTenant();
    await database.superuser.query("delete from app.llm_budgets where tenant_id = $1", [tenantId]);
    expect(await as(database.service, tenantId, STATUS)).toEqual([]);
  });
});

test("it works twice: looking changes nothing", async () => {
  const { tenantId } = await database.addTenant();
  await ledger.reserve(tenantId);
  const first = await as(database.service, tenantId, STATUS);
  expect(await as(database.worker, tenantId, STATUS)).toEqual(first);
});

test("a stranger gets nothing, and sees only its own", async () => {
  const { tenantId } = await database.addTenant({ limitUsd: "7" });
  const stranger = await strangerIsRefused(database, database.service, tenantId, STATUS);
  expect(await as(database.service, stranger.tenantId, STATUS)).toMatchObject([{ limit_usd: "10" }]);
});
