// sql/app/llm_check.sql: each thing that can be wrong with the books is planted, and reported.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);

beforeAll(() => ledger.setPrices());

/** A tenant with a hold of each state. */
async function scene(): Promise<{
  tenantId: string;
  reserved: string;
  presumed: string;
  released: string;
  applied: string;
}> {
  const { tenantId, name } = await database.addTenant({ limitUsd: "1" });
  await ledger.setBudget(name, "0.5", "day");
  const [reserved, presumed, released, applied] = await Promise.all(
    [1, 2, 3, 4].map(async () => (await ledger.reserve(tenantId))["id"] as string),
  );
  await ledger.presume(tenantId, presumed!);
  await ledger.release(tenantId, released!);
  await ledger.settle(tenantId, applied!, 500, 300); // 100,000 above its hold
  return { tenantId, reserved: reserved!, presumed: presumed!, released: released!, applied: applied! };
}

/** The names of the invariants that break when a superuser does this; the books are put back after it. */
async function breaks(tenantId: string, text: string, values: unknown[]): Promise<string[]> {
  const client = await database.superuser.connect();
  try {
    await client.query("begin");
    const changed = await client.query(text, values);
    expect(changed.rowCount).toBeGreaterThan(0);
    const { rows } = await client.query("select * from app.llm_check()");
    expect(rows.map((row) => row.tenant_id)).toEqual(rows.map(() => tenantId));
    expect(rows.every((row) => typeof row.facts === "object")).toBe(true);
    return [...new Set(rows.map((row) => row.invariant as string))].sort();
  } finally {
    await client.query("rollback");
    client.release();
  }
}

test("sound books answer nothing", async () => {
  await scene();
  expect(await ledger.broken()).toEqual([]);
});

describe("a counter that is not the sum of its holds", () => {
  test.each(["reserved", "presumed", "spent"])("%s", async (counter) => {
    const { tenantId } = await scene();
    for (const by of [1, -1]) {
      const text = `update app.llm_budget_periods set ${counter}_nanousd = ${counter}_nanousd + $2 where tenant_id = $1`;
      expect(await breaks(tenantId, text, [tenantId, by])).toEqual(["counters_equal_reservations"]);
    }
  });

  test("no counter goes below zero, whoever asks", async () => {
    const { tenantId } = await scene();
    for (const counter of ["reserved", "presumed", "spent"]) {
      const text = `update app.llm_budget_periods set ${counter}_nanousd = -1 where tenant_id = $1`;
      await expect(database.superuser.query(text, [tenantId])).rejects.toMatchObject({ code: "23514" });
    }
  });

  test("a period row is lost", async () => {
    const { tenantId } = await scene();
    const text = "delete from app.llm_budget_periods where tenant_id = $1";
    expect(await breaks(tenantId, text, [tenantId])).toEqual(["counters_equal_reservations"]);
  });

  test("a hold is lost", async () => {
    const { tenantId, reserved } = await scene();
    const text = "delete from app.llm_reservations where tenant_id = $1 and id = $2";
    expect(await breaks(tenantId, text, [tenantId, reserved])).toContain("counters_equal_reservations");
  });
});

test("more is held than any limit ever allowed", async () => {
  const { tenantId } = await scene();
  // 1,000,000 reserved, 1,000,000 presumed and 1,100,000 spent, of which 100,000 were above a hold.
  const text = "update app.llm_budget_periods set admitted_limit_nanousd = $2 where tenant_id = $1";
  expect(await breaks(tenantId, text, [tenantId, 3_000_000])).toEqual([]);
  expect(await breaks(tenantId, text, [tenantId, 2_999_999])).toEqual(["never_over_the_limit"]);
});

test("a hold is in no budget", async () => {
  const { tenantId, released } = await scene();
  const text = "delete from app.llm_reservation_budgets where tenant_id = $1 and reservation_id = $2";
  expect(await breaks(tenantId, text, [tenantId, released])).toEqual(["reservation_holds_a_budget"]);
});

describe("usage that does not match its hold", () => {
  const addUsage = `insert into app.llm_usage (tenant_id, reservation_id, provider, model, input_tokens, output_tokens, cost_nanousd)
    values ($1, $2, 'p', 'm', 1, 0, $3)`;

  test("a settled call has none", async () => {
    const { tenantId, applied } = await scene();
    const text = "delete from app.llm_usage where tenant_id = $1 and reservation_id = $2";
    expect(await breaks(tenantId, text, [tenantId, applied])).toEqual(["applied_has_one_usage"]);
  });

  test("it cost something else", async () => {
    const { tenantId, applied } = await scene();
    const text =
      "update app.llm_usage set cost_nanousd = cost_nanousd + 1 where tenant_id = $1 and reservation_id = $2";
    expect(await breaks(tenantId, text, [tenantId, applied])).toEqual(["applied_has_one_usage"]);
  });

  test.each([0, 1_000, 1_100_000])("a settled call has a second one, of %i nano-USD", async (cost) => {
    const { tenantId, applied } = await scene();
    expect(await breaks(tenantId, addUsage, [tenantId, applied, cost])).toEqual(["applied_has_one_usage"]);
  });

  test.each(["reserved", "presumed", "released"] as const)("a call that is %s has one", async (state) => {
    const { tenantId, [state]: id } = await scene();
    expect(await breaks(tenantId, addUsage, [tenantId, id, 1_000])).toHaveLength(1);
  });

  test("it names a hold that is not there", async () => {
    const { tenantId } = await scene();
    expect(await breaks(tenantId, addUsage, [tenantId, randomUUID(), 1_000])).toHaveLength(1);
  });
});

describe("it refuses", () => {
  test("the service, which may not see all tenants", async () => {
    await expect(database.service.pool.query("select * from app.llm_check()")).rejects.toMatchObject({
      code: "42501",
    });
    expect((await database.worker.pool.query("select * from app.llm_check()")).rows).toEqual([]);
    expect((await database.ops.query("select * from app.llm_check()")).rows).toEqual([]);
  });
});
