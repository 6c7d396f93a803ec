// sql/app_private/llm_refusal.sql: what a refused caller is told, and that it is true.
import { beforeAll, describe, expect, test } from "vitest";
import type { AppError } from "../../src/errors.ts";
import { as, refusal } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { type Asked, ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const { reserve } = ledger;

beforeAll(() => ledger.setPrices());

const refused = (tenantId: string, asked: Asked): Promise<AppError> =>
  refusal(reserve(tenantId, asked), "budget_exceeded");

/** The same refusal must come from asking for an analysis, which holds nothing. */
async function refusedAlike(tenantId: string, asked: Asked): Promise<Record<string, unknown>> {
  const { detail } = await refused(tenantId, asked);
  const requested = as(
    database.service,
    tenantId,
    `select * from app.analysis_request($1, $2, provider => 'p', model => 'm', input_tokens_bound => $3,
       max_output_tokens => $4)`,
    [asked.input, asked.output],
  );
  expect((await refusal(requested, "budget_exceeded")).detail).toEqual(detail);
  return detail;
}

/** The output tokens that a refusal offers are admitted, and one more is not. */
async function offerHolds(tenantId: string, input: number, detail: Record<string, unknown>): Promise<void> {
  const affordable = Number(detail["max_affordable_output_tokens"]);
  await refused(tenantId, { input, output: affordable + 1 });
  await reserve(tenantId, { input, output: affordable });
  expect(await ledger.broken()).toEqual([]);
}

/** Moves a hold, with its share of the day, to yesterday; the month keeps it. */
async function backdateDay(tenantId: string): Promise<void> {
  await database.superuser.query(
    `with days as (select id from app.llm_budgets where tenant_id = $1 and period = 'day'),
          holds as (
            update app.llm_reservation_budgets as h set period_start = h.period_start - interval '1 day'
            from days as d where h.tenant_id = $1 and h.budget_id = d.id)
     update app.llm_budget_periods as p
     set period_start = p.period_start - interval '1 day', period_end = p.period_end - interval '1 day'
     from days as d where p.tenant_id = $1 and p.budget_id = d.id`,
    [tenantId],
  );
}

describe("one budget", () => {
  test("too_large: it would not fit an untouched period", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "0.001" });
    const detail = await refusedAlike(tenantId, { input: 500, output: 251 });
    expect(detail).toMatchObject({
      reason: "too_large",
      scope: "tenant",
      period: "month",
      limit_nanousd: "1000000",
      spent_nanousd: "0",
      reserved_nanousd: "0",
      presumed_nanousd: "0",
      needed_nanousd: "1002000",
      max_affordable_output_tokens: 250,
    });
    const end = new Date(String(detail["period_end"]));
    expect([end.getUTCDate(), end.getUTCHours(), end > new Date()]).toEqual([1, 0, true]);
    await offerHolds(tenantId, 500, detail);
  });

  test("in_flight: it fits once the calls under way have come back", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "0.0015" });
    const under_way = await reserve(tenantId);
    const detail = await refusedAlike(tenantId, { input: 500, output: 250 });
    expect(detail).toMatchObject({
      reason: "in_flight",
      reserved_nanousd: "1000000",
      max_affordable_output_tokens: 0,
    });
    await ledger.release(tenantId, under_way["id"]);
    await reserve(tenantId);
  });

  test("exhausted: what was spent leaves no room, whatever comes back", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "0.0015" });
    const settled = await reserve(tenantId);
    await ledger.settle(tenantId, settled["id"], 500, 250);
    const detail = await refusedAlike(tenantId, { input: 400, output: 250 });
    expect(detail).toMatchObject({
      reason: "exhausted",
      spent_nanousd: "1000000",
      max_affordable_output_tokens: 50,
    });
    await offerHolds(tenantId, 400, detail);
  });

  test("exhausted: what is presumed does not come back either", async () => {
    const { tenantId } = await database.addTenant({ limitUsd: "0.0015" });
    await ledger.presume(tenantId, (await reserve(tenantId))["id"]);
    const detail = await refusedAlike(tenantId, { input: 500, output: 250 });
    expect(detail).toMatchObject({ reason: "exhausted", presumed_nanousd: "1000000", reserved_nanousd: "0" });
  });

  test("after a cut below what was spent, nothing is affordable", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "1" });
    const { id } = await reserve(tenantId, { input: 500_000, output: 0 });
    await ledger.settle(tenantId, id, 500_000, 0);
    await ledger.setBudget(name, "0.1");
    const detail = await refusedAlike(tenantId, { input: 1, output: 1 });
    expect(detail).toMatchObject({
      reason: "exhausted",
      spent_nanousd: "500000000",
      max_affordable_output_tokens: 0,
    });
    expect(await ledger.broken()).toEqual([]);
  });
});

describe("two budgets", () => {
  test("the offer fits both", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "0.010" });
    await ledger.setBudget(name, "0.002", "day");
    const detail = await refusedAlike(tenantId, { input: 1000, output: 1000 });
    expect(detail).toMatchObject({ reason: "too_large", period: "day", max_affordable_output_tokens: 500 });
    await offerHolds(tenantId, 1000, detail);
  });

  test("one of zero refuses, whatever the other has", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "1" });
    await ledger.setBudget(name, "0", "day");
    expect(await refusedAlike(tenantId, { input: 1, output: 1 })).toMatchObject({
      reason: "zero",
      period: "day",
    });
  });

  test("a call that one can never hold is too_large, though the other is only busy", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "0.0020" });
    await ledger.setBudget(name, "0.0012", "day");
    await reserve(tenantId);
    await backdateDay(tenantId); // the month has 0.0010 left, the day all of its 0.0012
    const detail = await refusedAlike(tenantId, { input: 1300, output: 0 });
    // Who waits for the call in flight, as in_flight says, waits for ever.
    expect(detail).toMatchObject({ reason: "too_large", period: "day", max_affordable_output_tokens: 0 });
  });

  test("a day that is spent is exhausted, though the month is only busy", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "0.0030" });
    await ledger.setBudget(name, "0.0020", "day");
    await reserve(tenantId, { input: 1600, output: 0 });
    await backdateDay(tenantId);
    await ledger.settle(tenantId, (await reserve(tenantId, { input: 1000, output: 0 }))["id"], 1000, 0);
    // Today: 1.0 spent of 2.0. The month: 1.0 spent and 1.6 in flight of 3.0.
    const detail = await refusedAlike(tenantId, { input: 1100, output: 0 });
    expect(detail).toMatchObject({ reason: "exhausted", period: "day" });
  });
});
