// sql/app/llm_reserve.sql: many callers at once, two budgets at once.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createPool } from "../../src/db.ts";
import { AppError } from "../../src/errors.ts";
import { collide, oneAs, type Row, refusal } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { type Asked, ledgerOf, RESERVE, reserveValues } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const { balances, broken, holdCount } = ledger;

/** A connection for each of fifty callers: none waits for another but inside of the database. */
const pool = createPool({
  connectionString: database.url("holdfast_service"),
  application_name: "test",
  max: 50,
});
const reserve = (tenantId: string, asked?: Asked) =>
  oneAs({ ...database.service, pool }, tenantId, RESERVE, reserveValues(asked));

beforeAll(() => ledger.setPrices());
afterAll(() => pool.end());

const deadlocks = async () =>
  (
    await database.superuser.query(
      "select deadlocks::int as n from pg_stat_database where datname = current_database()",
    )
  ).rows[0].n as number;

/** Splits outcomes into the holds that were made and the names of the refusals. */
function sorted(outcomes: PromiseSettledResult<Row>[]): { held: Row[]; refused: string[] } {
  const held = outcomes.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
  const refused = outcomes.flatMap((each) => (each.status === "rejected" ? [each.reason] : []));
  return {
    held,
    refused: refused.map((reason) => (reason instanceof AppError ? reason.code : String(reason))),
  };
}

const outcomes = async (calls: Promise<Row>[]) => sorted(await Promise.allSettled(calls));

const times = <T>(count: number, make: (index: number) => T): T[] =>
  Array.from({ length: count }, (_, i) => make(i));

test("fifty callers at once and money for ten: exactly ten holds", async () => {
  const { tenantId } = await database.addTenant({ limitUsd: "0.011" });
  await reserve(tenantId); // the row that all of them need is there
  const waiting = await collide(
    database,
    { text: "select from app.llm_budget_periods where tenant_id = $1", values: [tenantId] },
    times(50, () => () => reserve(tenantId)),
  );
  const { held, refused } = sorted(waiting);
  expect(held).toHaveLength(10);
  expect(refused).toEqual(times(40, () => "budget_exceeded"));
  expect(await balances(tenantId)).toEqual([
    { period: "month", reserved: 11_000_000, presumed: 0, spent: 0 },
  ]);
  expect(await holdCount(tenantId)).toBe(11);
  expect(await broken()).toEqual([]);
});

test("so too when none of them finds the row of the period", async () => {
  const { tenantId } = await database.addTenant({ limitUsd: "0.010" });
  const { held, refused } = await outcomes(times(50, () => reserve(tenantId)));
  expect([held.length, refused.length]).toEqual([10, 40]);
  expect(await holdCount(tenantId)).toBe(10);
  expect(await broken()).toEqual([]);
});

test("twenty callers with one key make one hold, and all learn its id", async () => {
  const { tenantId } = await database.addTenant({ limitUsd: "1" });
  const { held, refused } = await outcomes(times(20, () => reserve(tenantId, { key: "one" })));
  expect(refused).toEqual([]);
  expect(new Set(held.map((hold) => hold["id"])).size).toBe(1);
  expect(held.filter((hold) => !hold["replayed"])).toHaveLength(1);
  expect(await balances(tenantId)).toMatchObject([{ reserved: 1_000_000 }]);
});

test("twenty callers with one key and two requests: one hold, the others conflict", async () => {
  const { tenantId } = await database.addTenant({ limitUsd: "1" });
  const { held, refused } = await outcomes(
    times(20, (i) => reserve(tenantId, { key: "one", output: 250 + (i % 2) })),
  );
  expect(new Set(held.map((hold) => hold["id"])).size).toBe(1);
  expect(held).toHaveLength(10);
  expect(refused).toEqual(times(10, () => "idempotency_conflict"));
  expect(await holdCount(tenantId)).toBe(1);
});

test("a caller that waited for a key whose first request was refused is judged by itself", async () => {
  const { tenantId } = await database.addTenant({ limitUsd: "0.001" });
  const { held, refused } = await outcomes(
    times(10, (i) => reserve(tenantId, { key: "k", output: i === 0 ? 250 : 900 })),
  );
  expect(held).toHaveLength(1);
  expect(refused).toHaveLength(9);
  expect(await broken()).toEqual([]);
});

describe("a day and a month", () => {
  async function twoBudgets(day: string, month: string): Promise<string> {
    const { tenantId, name } = await database.addTenant({ limitUsd: month });
    await ledger.setBudget(name, day, "day");
    return tenantId;
  }

  test("a hold is in both", async () => {
    const tenantId = await twoBudgets("0.005", "0.01");
    await reserve(tenantId);
    expect(await balances(tenantId)).toEqual([
      { period: "day", reserved: 1_000_000, presumed: 0, spent: 0 },
      { period: "month", reserved: 1_000_000, presumed: 0, spent: 0 },
    ]);
  });

  test.each([
    ["day", "0.003", "0.01"],
    ["month", "0.01", "0.003"],
  ])("where the %s is the smaller one, a refused call is in none", async (period, day, month) => {
    const tenantId = await twoBudgets(day, month);
    const { held } = await outcomes(times(30, () => reserve(tenantId)));
    expect(held).toHaveLength(3);
    expect((await balances(tenantId)).map((each) => each.reserved)).toEqual([3_000_000, 3_000_000]);
    expect((await refusal(reserve(tenantId), "budget_exceeded")).detail["period"]).toBe(period);
    expect(await broken()).toEqual([]);
  });

  test("reserving, settling, giving back and expiring all at once never deadlocks", async () => {
    const tenants = await Promise.all(times(3, () => twoBudgets("0.008", "0.009")));
    const before = await deadlocks();
    let settled = 0;
    const caller = async (seed: number): Promise<void> => {
      for (let step = 0; step < 12; step += 1) {
        const tenantId = tenants[(seed + step) % tenants.length]!;
        const hold = await reserve(tenantId, { ttl: step % 4 === 3 ? "0" : "1 minute" }).catch(
          (error: AppError) => {
            expect(error.code).toBe("budget_exceeded");
          },
        );
        if (hold === undefined) continue;
        if (step % 4 === 0) await ledger.release(tenantId, hold["id"]);
        if (step % 4 === 1) await ledger.settle(tenantId, hold["id"], 10, 5).then(() => (settled += 1));
        if (step % 4 === 2) await ledger.presume(tenantId, hold["id"]);
        if (step % 4 === 3) await database.worker.pool.query("select app.llm_expire()");
        if (step % 3 === 0) expect(await broken()).toEqual([]);
      }
    };
    await Promise.all(times(24, caller));
    expect(settled).toBeGreaterThan(0);
    expect((await deadlocks()) - before).toBe(0);
    expect(await broken()).toEqual([]);
  });
});
