// Where money lands when time is not what it was: months that end, clocks that step, attempts that nobody heard of.
import { beforeAll, describe, expect, test } from "vitest";
import { refusal } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ask, askOf, holdsOf } from "../support/holds.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const holds = holdsOf(database);
const { counters, settle, sound, tenantWith } = holds;

beforeAll(() => ledger.setPrices());

const input = (tokens: number, rest: object = {}) => ({ input_tokens: tokens, output_tokens: 0, ...rest });

/** The clock of the server as it steps: what was made is older by so much, or newer. */
const step = (tenantId: string, by: string) =>
  database.superuser.query(
    `update app.llm_reservations set created_at = created_at - $2::interval, expires_at = expires_at - $2::interval,
       presumed_at = presumed_at - $2::interval where tenant_id = $1`,
    [tenantId, by],
  );

describe("a month ends while calls are under way", () => {
  test("what was held before is held there, and the new month begins with all of its limit", async () => {
    const { tenantId } = await tenantWith({ limit: 2_000_000 }, { limit: 4_000_000, period: "total" });
    const [late, lost, stream] = [
      await holds.hold(tenantId, askOf(500)),
      await holds.hold(tenantId, askOf(500)),
      await holds.hold(tenantId, askOf(1_000)),
    ];
    await settle(tenantId, stream, input(300, { final: false }));
    await holds.monthsPass(tenantId);
    const rows = await holds.reserveMany(tenantId, [askOf(2_000), askOf(1)]);
    expect(rows.map(({ refusal: name }) => name)).toEqual([null, "budget_exceeded"]);

    await settle(tenantId, stream, input(900));
    await settle(tenantId, late, input(700)); // more than its hold, and than was left of its month
    await holds.presume(tenantId, lost);
    expect(await counters(tenantId)).toEqual([
      { budget: "tenant total", reserved: 2_000_000, presumed: 500_000, spent: 1_600_000 },
      { budget: "tenant month", reserved: 0, presumed: 500_000, spent: 1_600_000 },
      { budget: "tenant month", reserved: 2_000_000, presumed: 0, spent: 0 },
    ]);
    // The budget that has no end counts all of it.
    await holds.release(tenantId, rows[0]!["id"]);
    const [row, less] = await holds.reserveMany(tenantId, [askOf(1_901), askOf(1_900)]);
    expect(row).toMatchObject({ refusal: "budget_exceeded", detail: { period: "total" } });
    expect(less).toMatchObject({ refusal: null });
    await sound();
  });

  test("a hold that lapses after its month is presumed there, and written off there", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const id = await holds.hold(tenantId, { ttl_ms: 0 });
    await holds.monthsPass(tenantId, 3);
    const fresh = await holds.hold(tenantId);
    expect(await holds.expire()).toContain(id);
    expect((await counters(tenantId)).map(({ reserved, presumed }) => [reserved, presumed])).toEqual([
      [0, 1_000_000],
      [1_000_000, 0],
    ]);
    await holds.writeOff(id);
    await settle(tenantId, id, input(1));
    await holds.release(tenantId, fresh);
    expect((await counters(tenantId)).map(({ spent }) => spent)).toEqual([1_000, 0]);
    await sound();
  });

  test("the same key after the month is the same hold", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const asked = ask();
    const [first] = await holds.reserveMany(tenantId, [asked]);
    await holds.monthsPass(tenantId);
    expect(await holds.reserveMany(tenantId, [asked])).toEqual([{ ...first, replayed: true }]);
    expect(await counters(tenantId)).toHaveLength(1);
  });

  test("what is charged by policy for lack of a period that ends is charged at the next run", async () => {
    const { tenantId } = await tenantWith({ limit: 5_000_000, period: "total" });
    await database.superuser.query(
      "update app.tenants set presumed_policy = 'charge_worst_case' where tenant_id = $1",
      [tenantId],
    );
    const id = await holds.hold(tenantId);
    await holds.presume(tenantId, id);
    expect((await holds.resolve()).map((row) => [row["reservation_id"], row["status"]])).toEqual([
      [id, "APPLIED"],
    ]);
    expect(await counters(tenantId)).toEqual([
      { budget: "tenant total", reserved: 0, presumed: 0, spent: 1_000_000 },
    ]);
    await sound();
  });
});

describe("the clock steps", () => {
  test("back, into the month before: what was held in the later one stays there and ends there", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const id = await holds.hold(tenantId);
    await holds.monthsPass(tenantId, -1);
    await step(tenantId, "-31 days");
    const fresh = await holds.hold(tenantId); // a month with all of its limit
    expect((await counters(tenantId)).map(({ reserved }) => reserved)).toEqual([1_000_000, 1_000_000]);
    expect(await holds.expire()).toEqual([]);
    await settle(tenantId, id, input(10));
    await settle(tenantId, fresh, input(20));
    expect((await counters(tenantId)).map(({ spent }) => spent)).toEqual([20_000, 10_000]);
    await sound();
  });

  test("back: a hold never ends later than a day after it was made", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const id = await holds.hold(tenantId);
    await step(tenantId, "-2 hours");
    const row = await holds.extend(tenantId, id, "1 hour");
    const { created_at, expires_at } = await ledger.hold(id);
    expect(row["expires_at"]).toEqual(expires_at);
    expect(expires_at.getTime() - created_at.getTime()).toBeLessThanOrEqual(86_400_000);
    await sound();
  });

  test("forward: what lapsed by it still counts, may be settled, and is not extended", async () => {
    const { tenantId } = await tenantWith({ limit: 1_000_000 });
    const id = await holds.hold(tenantId, { ttl_ms: 3_600_000 });
    await step(tenantId, "3 days");
    const [row] = await holds.reserveMany(tenantId, [askOf(1)]);
    expect(row).toMatchObject({ refusal: "budget_exceeded" });
    await refusal(holds.extend(tenantId, id, "1 hour"), "reservation_closed");
    await settle(tenantId, id, input(10));
    expect(await counters(tenantId)).toMatchObject([{ reserved: 0, presumed: 0, spent: 10_000 }]);
    await sound();
  });
});

describe("a second attempt after one that nobody heard of", () => {
  test("both are counted until the first one is known", async () => {
    const { tenantId } = await tenantWith({ limit: 2_500_000 });
    const first = await holds.hold(tenantId, { attempt: 1 });
    await holds.presume(tenantId, first);
    const second = await holds.hold(tenantId, { attempt: 2 });
    expect(await counters(tenantId)).toMatchObject([{ reserved: 1_000_000, presumed: 1_000_000 }]);
    const third = askOf(501, { attempt: 3 });
    expect((await holds.reserveMany(tenantId, [third]))[0]).toMatchObject({ refusal: "budget_exceeded" });
    await settle(tenantId, first, input(0));
    await settle(tenantId, second, input(500));
    expect((await holds.reserveMany(tenantId, [third]))[0]).toMatchObject({ refusal: null });
    await sound();
  });
});

describe("what is over", () => {
  test.each<[string, (tenantId: string, id: string) => Promise<unknown>]>([
    ["settled", (tenantId, id) => settle(tenantId, id, input(10))],
    ["released", (tenantId, id) => holds.release(tenantId, id)],
    [
      "written off, and its truth heard",
      async (tenantId, id) => {
        await holds.presume(tenantId, id);
        await holds.writeOff(id);
        await settle(tenantId, id, input(10));
      },
    ],
  ])("%s: no other end has an effect, and each says so by name", async (what, end) => {
    const { tenantId } = await tenantWith({ limit: 2_000_000 });
    const id = await holds.hold(tenantId);
    await end(tenantId, id);
    const [before, hold, usage] = [await counters(tenantId), await ledger.hold(id), await ledger.usage(id)];
    expect(await settle(tenantId, id, input(11))).toMatchObject({ refusal: "reservation_closed" });
    expect(await settle(tenantId, id, input(11, { final: false }))).toMatchObject({
      refusal: "reservation_closed",
    });
    if (what !== "released") await refusal(holds.release(tenantId, id), "reservation_closed");
    await refusal(holds.presume(tenantId, id), "reservation_closed");
    await refusal(holds.extend(tenantId, id, "1 minute"), "reservation_closed");
    await expect(holds.writeOff(id)).rejects.toMatchObject({ message: "reservation_closed" });
    expect(await holds.expire()).toEqual([]);
    expect(await holds.resolve()).toEqual([]);
    expect([await counters(tenantId), await ledger.hold(id), await ledger.usage(id)]).toEqual([
      before,
      hold,
      usage,
    ]);
    await sound();
  });
});
