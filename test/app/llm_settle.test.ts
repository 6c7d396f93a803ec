// sql/app/llm_settle.sql: the hold becomes what the call did cost.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { collide, oneAs, type Row, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const runs = runsOf(database);
const { reserve, settle, balances, broken } = ledger;

beforeAll(() => ledger.setPrices());

/** A tenant with a run that holds 1,000,000 nano-USD. */
async function held(limitUsd = "1"): Promise<{ tenantId: string; name: string; id: string }> {
  const tenant = await database.addTenant({ limitUsd });
  const { id } = await reserve(tenant.tenantId, { runId: await runs.add(tenant.tenantId) });
  return { ...tenant, id };
}

const spentOf = async (tenantId: string) => (await balances(tenantId)).map(({ spent }) => spent);

describe("it works", () => {
  test("the hold is gone and the cost is spent", async () => {
    const { tenantId, id } = await held();
    expect(await settle(tenantId, id, 100, 20)).toEqual({
      id,
      status: "APPLIED",
      cost_nanousd: "140000",
      over_hold_nanousd: "0",
    });
    expect(await balances(tenantId)).toEqual([{ period: "month", reserved: 0, presumed: 0, spent: 140_000 }]);
    expect(await ledger.hold(id)).toMatchObject({
      status: "APPLIED",
      cost_nanousd: "140000",
      closed_at: expect.any(Date),
    });
    expect(await broken()).toEqual([]);
  });

  test("usage says what was used, by whom", async () => {
    const { tenantId, id } = await held();
    await oneAs(
      database.service,
      tenantId,
      `select * from app.llm_settle($1, $2, reservation_id => $3, input_tokens => 100, output_tokens => 20,
         cached_input_tokens => 30, provider_request_id => $4, response_model => 'm-2026-01-01', finish_reason => 'stop',
         simulated => true)`,
      [id, "r".repeat(300)],
    );
    const { run_id } = await ledger.hold(id);
    expect(await ledger.usage(id)).toMatchObject([
      {
        run_id,
        provider: "p",
        model: "m",
        response_model: "m-2026-01-01",
        status: "SETTLED",
        input_tokens: "100",
        cached_input_tokens: "30",
        output_tokens: "20",
        cost_nanousd: String(70 * 1_000 + 30 * 100 + 20 * 2_000),
        over_hold_nanousd: "0",
        provider_request_id: "r".repeat(200),
        finish_reason: "stop",
        simulated: true,
      },
    ]);
  });

  test("a cost above the hold is recorded, and no later call is admitted over it", async () => {
    const { tenantId, id } = await held("0.001");
    expect(await settle(tenantId, id, 500, 750)).toMatchObject({
      cost_nanousd: "2000000",
      over_hold_nanousd: "1000000",
    });
    expect(await spentOf(tenantId)).toEqual([2_000_000]);
    expect((await ledger.usage(id))[0]).toMatchObject({ over_hold_nanousd: "1000000" });
    await refusal(reserve(tenantId, { input: 0, output: 0 }), "budget_exceeded");
    expect(await broken()).toEqual([]);
  });

  test("a call that used nothing costs nothing", async () => {
    const { tenantId, id } = await held();
    expect(await settle(tenantId, id, 0, 0)).toMatchObject({ cost_nanousd: "0" });
    expect(await balances(tenantId)).toMatchObject([{ reserved: 0, spent: 0 }]);
    expect(await broken()).toEqual([]);
  });

  test("a presumed hold may be settled late: the cost takes its place", async () => {
    const { tenantId, id } = await held();
    await ledger.presume(tenantId, id);
    expect(await settle(tenantId, id, 100, 20)).toMatchObject({ status: "APPLIED", cost_nanousd: "140000" });
    expect(await balances(tenantId)).toEqual([{ period: "month", reserved: 0, presumed: 0, spent: 140_000 }]);
    expect(await broken()).toEqual([]);
  });

  test("a hold past its time that nobody has swept may be settled", async () => {
    const { tenantId } = await database.addTenant();
    const { id } = await reserve(tenantId, { ttl: "0" });
    await settle(tenantId, id, 1, 1);
    await database.worker.pool.query("select app.llm_expire()");
    expect(await ledger.hold(id)).toMatchObject({ status: "APPLIED" });
    expect(await broken()).toEqual([]);
  });

  test("settling frees what was held and not spent", async () => {
    const { tenantId, id } = await held("0.001");
    await refusal(reserve(tenantId, { input: 500, output: 0 }), "budget_exceeded");
    await settle(tenantId, id, 500, 0);
    await reserve(tenantId, { input: 500, output: 0 });
  });

  test("the price is that of the moment of the hold, whatever it is now", async () => {
    await database.ops.query(
      "select ops.llm_price_set('moving', 'm', 1, 2, 'before', cached_input_usd_per_million => 0.5)",
    );
    const { tenantId } = await database.addTenant();
    const before = await reserve(tenantId, { provider: "moving" });
    await database.ops.query("select ops.llm_price_set('moving', 'm', 10, 20, 'after')");
    const after = await reserve(tenantId, { provider: "moving" });
    expect([before["estimated_cost_nanousd"], after["estimated_cost_nanousd"]]).toEqual([
      "1000000",
      "10000000",
    ]);
    expect((await settle(tenantId, before["id"], 100, 20, 50))["cost_nanousd"]).toBe("115000");
    // The new price has no rate for cached input, so that costs what input does.
    expect((await settle(tenantId, after["id"], 100, 20, 50))["cost_nanousd"]).toBe("1400000");
    expect(await broken()).toEqual([]);
  });

  test("a hold of a past month is settled there, late or not, and takes nothing from this one", async () => {
    const { tenantId, id } = await held("0.003");
    const presumed = await reserve(tenantId);
    await ledger.presume(tenantId, presumed["id"]);
    await database.superuser.query(
      `with holds as (
         update app.llm_reservation_budgets set period_start = period_start - interval '1 month' where tenant_id = $1)
       update app.llm_budget_periods set period_start = period_start - interval '1 month', period_end = period_start
       where tenant_id = $1`,
      [tenantId],
    );
    const fresh = await reserve(tenantId);
    await settle(tenantId, id, 100, 0);
    await settle(tenantId, presumed["id"], 200, 0);
    expect(await balances(tenantId)).toEqual([
      { period: "month", reserved: 0, presumed: 0, spent: 300_000 },
      { period: "month", reserved: 1_000_000, presumed: 0, spent: 0 },
    ]);
    await settle(tenantId, fresh["id"], 50, 0);
    expect(await spentOf(tenantId)).toEqual([300_000, 50_000]);
    expect(await broken()).toEqual([]);
  });
});

describe("it works twice", () => {
  test("the same settlement again gets the first answer and is counted once", async () => {
    const { tenantId, id } = await held();
    const first = await settle(tenantId, id, 500, 300);
    expect(await settle(tenantId, id, 500, 300)).toEqual(first);
    expect(await spentOf(tenantId)).toEqual([1_100_000]);
    expect(await ledger.usage(id)).toHaveLength(1);
  });

  test("ten at once are one", async () => {
    const { tenantId, id } = await held();
    const settles = Array.from({ length: 10 }, () => () => settle(tenantId, id, 100, 20));
    const outcomes = await collide(
      database,
      { text: "select from app.llm_reservations where id = $1", values: [id] },
      settles,
    );
    expect(new Set(outcomes.map((each) => JSON.stringify(each))).size).toBe(1);
    expect(outcomes[0]).toMatchObject({
      status: "fulfilled",
      value: { status: "APPLIED", cost_nanousd: "140000" },
    });
    expect(await spentOf(tenantId)).toEqual([140_000]);
    expect(await ledger.usage(id)).toHaveLength(1);
    expect(await broken()).toEqual([]);
  });

  test.each([
    ["input", 101, 20, 0],
    ["output", 100, 21, 0],
    ["cached input", 100, 20, 1],
  ])("another number of %s tokens is refused, and the first stands", async (_, input, output, cached) => {
    const { tenantId, id } = await held();
    await settle(tenantId, id, 100, 20);
    const refused = await refusal(settle(tenantId, id, input, output, cached), "reservation_closed");
    expect(refused).toMatchObject({ status: 409, detail: { reservation_id: id, status: "APPLIED" } });
    expect(await spentOf(tenantId)).toEqual([140_000]);
  });
});

describe("it refuses", () => {
  test("a hold that was released", async () => {
    const { tenantId, id } = await held();
    await ledger.release(tenantId, id);
    await refusal(settle(tenantId, id, 1, 1), "reservation_closed");
    expect(await balances(tenantId)).toMatchObject([{ reserved: 0, spent: 0 }]);
    expect(await ledger.usage(id)).toEqual([]);
  });

  test.each<[string, unknown, unknown, unknown]>([
    ["negative input", -1, 0, 0],
    ["negative output", 0, -1, 0],
    ["negative cached input", 1, 0, -1],
    ["no input", null, 0, 0],
    ["no output", 0, null, 0],
    ["no cached input", 1, 1, null],
    ["more cached input than input", 10, 0, 11],
    ["a huge input", "9223372036854775807", 0, 0],
    ["a huge output", 0, 100_000_001, 0],
  ])("%s", async (_, input, output, cached) => {
    const { tenantId, id } = await held();
    await refusal(settle(tenantId, id, input, output, cached), "reservation_invalid");
    expect(await ledger.hold(id)).toMatchObject({ status: "RESERVED" });
  });

  test("a reservation that is not there, or none", async () => {
    const { tenantId } = await held();
    for (const id of [randomUUID(), null]) {
      expect((await refusal(settle(tenantId, id as string, 1, 1), "reservation_not_found")).status).toBe(404);
    }
  });
});

describe("a stranger gets nothing", () => {
  test("neither with its own ticket for the tenant nor with the id of a foreign hold", async () => {
    const { tenantId, id } = await held();
    const text = "select * from app.llm_settle($1, $2, $3, 1, 1)";
    const stranger = await strangerIsRefused(database, database.service, tenantId, text, [id]);
    const foreign = await refusal(settle(stranger.tenantId, id, 1, 1), "reservation_not_found");
    const absent = await refusal(settle(stranger.tenantId, randomUUID(), 1, 1), "reservation_not_found");
    const told = ({ message, detail, hint }: { message: string; detail: Row; hint: string | undefined }) => ({
      message,
      detail,
      hint,
    });
    expect(told(foreign)).toEqual(told(absent));
    expect(await ledger.hold(id)).toMatchObject({ status: "RESERVED" });
  });
});
