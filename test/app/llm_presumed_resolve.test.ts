// sql/app/llm_presumed_resolve.sql: what becomes of holds whose outcome nobody learned, as their tenant's policy says.
import { beforeAll, describe, expect, test } from "vitest";
import { besides } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { askOf, type Budget, holdsOf } from "../support/holds.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const holds = holdsOf(database);
const { resolve, tenantWith, counters, sound } = holds;

beforeAll(() => ledger.setPrices());

type Policy = "hold" | "release_after" | "charge_worst_case";

async function policy(tenantId: string, name: Policy, after: string | null = null): Promise<void> {
  await database.superuser.query(
    "update app.tenants set presumed_policy = $2, presumed_after = $3 where tenant_id = $1",
    [tenantId, name, after],
  );
}

/** A tenant of that policy with a hold that is presumed since `ago`. */
async function presumed(
  name: Policy,
  {
    after = null,
    ago = "0",
    budgets = [{ limit: 10_000_000 }],
    part = 0,
  }: {
    after?: string | null;
    ago?: string;
    budgets?: Budget[];
    part?: number;
  } = {},
): Promise<{ tenantId: string; id: string }> {
  const { tenantId } = await tenantWith(...budgets);
  await policy(tenantId, name, after);
  const id = await holds.hold(tenantId);
  if (part > 0) await holds.settle(tenantId, id, { input_tokens: part, output_tokens: 0, final: false });
  await holds.presume(tenantId, id);
  await presumedSince(id, ago);
  return { tenantId, id };
}

const presumedSince = (id: string, ago: string) =>
  database.superuser.query(
    "update app.llm_reservations set presumed_at = clock_timestamp() - $2::interval where id = $1",
    [id, ago],
  );

const resolvedOf = async (tenantId: string) =>
  (await resolve())
    .filter((row) => row["tenant_id"] === tenantId)
    .map((row) => [row["reservation_id"], row["status"]]);

describe("hold", () => {
  test("nothing ends, however old and whatever month it is", async () => {
    const { tenantId, id } = await presumed("hold", { ago: "400 days" });
    await holds.monthsPass(tenantId, 13);
    expect(await resolvedOf(tenantId)).toEqual([]);
    expect(await holds.status(id)).toBe("PRESUMED");
    expect(await counters(tenantId)).toMatchObject([{ presumed: 1_000_000, spent: 0 }]);
    await sound();
  });
});

describe("release_after", () => {
  test("it is written off when the time has passed, not before", async () => {
    const { tenantId, id } = await presumed("release_after", { after: "1 hour", ago: "59 minutes" });
    expect(await resolvedOf(tenantId)).toEqual([]);
    await presumedSince(id, "61 minutes");
    expect(await resolvedOf(tenantId)).toEqual([[id, "WRITTEN_OFF"]]);
    expect(await ledger.hold(id)).toMatchObject({
      status: "WRITTEN_OFF",
      reason: "policy: release_after",
      cost_nanousd: null,
      closed_at: expect.any(Date),
    });
    expect(await counters(tenantId)).toMatchObject([{ reserved: 0, presumed: 0, spent: 0 }]);
    expect(await ledger.usage(id)).toEqual([]);
    await sound();
  });

  test("what its stream had settled stays spent", async () => {
    const { tenantId, id } = await presumed("release_after", { after: "1 hour", ago: "2 hours", part: 300 });
    expect(await resolvedOf(tenantId)).toEqual([[id, "WRITTEN_OFF"]]);
    expect(await counters(tenantId)).toMatchObject([{ reserved: 0, presumed: 0, spent: 300_000 }]);
    expect(await ledger.usage(id)).toMatchObject([
      { status: "PARTIAL", input_tokens: "300", cost_nanousd: "300000" },
    ]);
    await sound();
  });

  test("a settlement that comes after it is an adjustment", async () => {
    const { tenantId, id } = await presumed("release_after", { after: "1 hour", ago: "2 hours" });
    await resolve();
    await holds.settle(tenantId, id, { input_tokens: 100, output_tokens: 0 });
    expect(await counters(tenantId)).toMatchObject([{ presumed: 0, spent: 100_000 }]);
    await sound();
  });
});

describe("charge_worst_case", () => {
  test("it is charged whole when its period is over, not before, and in that period", async () => {
    const { tenantId, id } = await presumed("charge_worst_case", { ago: "40 days" });
    expect(await resolvedOf(tenantId)).toEqual([]);
    await holds.monthsPass(tenantId, 2);
    await holds.hold(tenantId);
    expect(await resolvedOf(tenantId)).toEqual([[id, "APPLIED"]]);
    expect(await ledger.hold(id)).toMatchObject({
      status: "APPLIED",
      cost_nanousd: "1000000",
      settled_nanousd: "1000000",
      reason: "policy: charge_worst_case",
    });
    expect(await ledger.usage(id)).toMatchObject([
      {
        status: "SETTLED",
        source: "estimated",
        cost_nanousd: "1000000",
        input_tokens: "500",
        output_tokens: "250",
      },
    ]);
    expect(await counters(tenantId)).toEqual([
      { budget: "tenant month", reserved: 0, presumed: 0, spent: 1_000_000 },
      { budget: "tenant month", reserved: 1_000_000, presumed: 0, spent: 0 },
    ]);
    await sound();
  });

  test("of several budgets the longest that ends must be over", async () => {
    const { tenantId, id } = await presumed("charge_worst_case", {
      budgets: [
        { limit: 10_000_000, period: "day" },
        { limit: 10_000_000, period: "month" },
        { limit: 10_000_000, period: "total" },
      ],
    });
    const end = (period: string) =>
      database.superuser.query(
        `with moved as (
           update app.llm_reservation_budgets as h set period_start = h.period_start - interval '2 months'
           from app.llm_budgets as b
           where b.tenant_id = $1 and b.period = $2 and h.tenant_id = b.tenant_id and h.budget_id = b.id)
         update app.llm_budget_periods as p
         set period_start = p.period_start - interval '2 months', period_end = p.period_end - interval '2 months'
         from app.llm_budgets as b where b.tenant_id = $1 and b.period = $2 and p.tenant_id = b.tenant_id and p.budget_id = b.id`,
        [tenantId, period],
      );
    await end("day");
    expect(await resolvedOf(tenantId)).toEqual([]);
    await end("month");
    expect(await resolvedOf(tenantId)).toEqual([[id, "APPLIED"]]);
    expect((await counters(tenantId)).map(({ presumed: left, spent }) => [left, spent])).toEqual(
      Array(3).fill([0, 1_000_000]),
    );
    await sound();
  });

  test("of a stream that passed its hold, what it did cost", async () => {
    const { tenantId, id } = await presumed("charge_worst_case", { part: 1_400 });
    await holds.monthsPass(tenantId, 2);
    expect(await resolvedOf(tenantId)).toEqual([[id, "APPLIED"]]);
    expect(await ledger.usage(id)).toMatchObject([{ cost_nanousd: "1400000", over_hold_nanousd: "400000" }]);
    expect(await counters(tenantId)).toMatchObject([{ presumed: 0, spent: 1_400_000 }]);
    await sound();
  });

  test("of a stream within its hold, all of the hold and not more", async () => {
    const { tenantId } = await presumed("charge_worst_case", { part: 400 });
    await holds.monthsPass(tenantId, 2);
    await resolve();
    expect(await counters(tenantId)).toMatchObject([{ presumed: 0, spent: 1_000_000 }]);
    await sound();
  });
});

describe("it works twice", () => {
  test("a second time finds nothing, and max_rows at a time", async () => {
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    await policy(tenantId, "release_after", "1 minute");
    const ids = [await holds.hold(tenantId), await holds.hold(tenantId), await holds.hold(tenantId)];
    for (const [at, id] of ids.entries()) {
      await holds.presume(tenantId, id);
      await presumedSince(id, `${10 - at} minutes`);
    }
    expect((await resolve(2)).map((row) => row["reservation_id"])).toEqual(ids.slice(0, 2));
    expect((await resolve(2)).map((row) => row["reservation_id"])).toEqual(ids.slice(2));
    expect(await resolve()).toEqual([]);
    await sound();
  });

  test("four at once end each hold once", async () => {
    const { tenantId } = await tenantWith({ limit: 100_000_000 });
    await policy(tenantId, "release_after", "1 minute");
    const ids = (
      await holds.reserveMany(
        tenantId,
        Array.from({ length: 40 }, (_, n) => ({
          idempotency_key: `k${n}`,
          provider: "p",
          model: "m",
          input_tokens_bound: 1,
          max_output_tokens: 1,
        })),
      )
    ).map((row) => row["id"] as string);
    for (const id of ids) {
      await holds.presume(tenantId, id);
      await presumedSince(id, "1 hour");
    }
    const told = (await Promise.all([resolve(), resolve(), resolve(), resolve()])).flat();
    told.push(...(await resolve()));
    expect(told.map((row) => row["reservation_id"]).sort()).toEqual([...ids].sort());
    expect(await counters(tenantId)).toMatchObject([{ presumed: 0, spent: 0 }]);
    await sound();
  });

  test("what is locked is passed over, and keeps no other tenant's waiting", async () => {
    const busy = await presumed("release_after", { after: "1 minute", ago: "3 hours" });
    const idle = await presumed("release_after", { after: "1 minute", ago: "1 hour" });
    const second = await holds.hold(busy.tenantId);
    await holds.presume(busy.tenantId, second);
    await presumedSince(second, "2 hours");
    const told = await besides(
      database,
      { text: "select from app.llm_budget_periods where tenant_id = $1", values: [busy.tenantId] },
      database.worker,
      // As many as the tenant that is locked has.
      "select reservation_id as id from app.llm_presumed_resolve(2)",
    );
    expect(told).toEqual([{ id: idle.id }]);
    expect((await resolve()).map((row) => row["reservation_id"])).toEqual([busy.id, second]);
    await sound();
  });
});

test("it finds what is presumed by its index, and reads nothing of the ledger from end to end", async () => {
  const { tenantId } = await tenantWith({ limit: 1_000_000_000 });
  await policy(tenantId, "release_after", "1 minute");
  for (let batch = 0; batch < 5; batch += 1)
    await holds.reserveMany(
      tenantId,
      Array.from({ length: 400 }, () => askOf(1)),
    );
  const id = await holds.hold(tenantId);
  await holds.presume(tenantId, id);
  await presumedSince(id, "1 hour");
  await database.superuser.query("vacuum analyze app.llm_reservations, app.llm_reservation_budgets");

  const client = await database.superuser.connect();
  const plans: string[] = [];
  client.on("notice", ({ message }) => plans.push(message ?? ""));
  try {
    await client.query(`load 'auto_explain'; set auto_explain.log_min_duration = 0;
      set auto_explain.log_nested_statements = on; set client_min_messages = log; set jit = off`);
    const { rows } = await client.query("select reservation_id as id from app.llm_presumed_resolve()");
    expect(rows).toEqual([{ id }]);
  } finally {
    client.release(true);
  }
  expect(plans.join("\n")).toMatch(/llm_reservations_\w*presumed_at_idx/);
  expect(plans.join("\n")).not.toMatch(/Seq Scan on (app\.)?llm_(reservation|usage|budget_periods)/);
});

test("it refuses who is neither the worker nor a person in psql", async () => {
  await expect(database.service.pool.query("select app.llm_presumed_resolve()")).rejects.toMatchObject({
    code: "42501",
  });
  await database.ops.query("select app.llm_presumed_resolve()");
});
