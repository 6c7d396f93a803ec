// sql/app/llm_release.sql and llm_presume.sql: a hold ends without a bill, or with an unknown one.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { collide, oneAs, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const { reserve, balances, broken } = ledger;

beforeAll(() => ledger.setPrices());

async function held(limitUsd = "0.001"): Promise<{ tenantId: string; id: string }> {
  const { tenantId } = await database.addTenant({ limitUsd });
  return { tenantId, id: (await reserve(tenantId))["id"] };
}

const ends = ["release", "presume"] as const;
const statusOf = { release: "RELEASED", presume: "PRESUMED" };

describe("it works", () => {
  test("released, the money is there again", async () => {
    const { tenantId, id } = await held();
    expect(await ledger.release(tenantId, id)).toEqual({ id, status: "RELEASED" });
    expect(await balances(tenantId)).toEqual([{ period: "month", reserved: 0, presumed: 0, spent: 0 }]);
    expect(await ledger.hold(id)).toMatchObject({
      reason: "never sent",
      cost_nanousd: null,
      closed_at: expect.any(Date),
    });
    await reserve(tenantId);
    expect(await broken()).toEqual([]);
  });

  test("presumed, it still counts against the limit", async () => {
    const { tenantId, id } = await held();
    expect(await ledger.presume(tenantId, id)).toEqual({ id, status: "PRESUMED" });
    expect(await balances(tenantId)).toEqual([
      { period: "month", reserved: 0, presumed: 1_000_000, spent: 0 },
    ]);
    expect(await ledger.hold(id)).toMatchObject({ reason: "no answer", closed_at: null });
    await refusal(reserve(tenantId, { input: 1, output: 0 }), "budget_exceeded");
    expect(await broken()).toEqual([]);
  });

  test("it is so in every budget that the hold is in", async () => {
    const { tenantId, name } = await database.addTenant({ limitUsd: "1" });
    await ledger.setBudget(name, "0.5", "week");
    const [gone, kept] = [await reserve(tenantId), await reserve(tenantId)];
    await ledger.setBudget(name, "0.1", "day"); // of which no earlier hold knows
    await ledger.release(tenantId, gone["id"]);
    await ledger.presume(tenantId, kept["id"]);
    await reserve(tenantId, { input: 1, output: 0 });
    expect(await balances(tenantId)).toEqual([
      { period: "day", reserved: 1_000, presumed: 0, spent: 0 },
      { period: "month", reserved: 1_000, presumed: 1_000_000, spent: 0 },
      { period: "week", reserved: 1_000, presumed: 1_000_000, spent: 0 },
    ]);
    expect(await broken()).toEqual([]);
  });

  test.each(ends)("a long reason of %s is cut", async (end) => {
    const { tenantId, id } = await held();
    await oneAs(database.service, tenantId, `select * from app.llm_${end}($1, $2, $3, $4)`, [
      id,
      "x".repeat(999),
    ]);
    expect((await ledger.hold(id))["reason"]).toBe("x".repeat(200));
  });
});

describe("it works twice", () => {
  test.each(ends)("%s again answers the same and moves nothing", async (end) => {
    const { tenantId, id } = await held();
    const first = await ledger[end](tenantId, id);
    const once = await balances(tenantId);
    expect(await ledger[end](tenantId, id)).toEqual(first);
    expect(await balances(tenantId)).toEqual(once);
    expect(await broken()).toEqual([]);
  });

  test("of ten racing ways to end it, one wins, and the books are right", async () => {
    const { tenantId, id } = await held("1");
    await reserve(tenantId); // so that a double release would find money to take
    const ways = [() => ledger.release(tenantId, id), () => ledger.settle(tenantId, id, 1, 0)];
    const outcomes = await collide(
      database,
      { text: "select from app.llm_reservations where id = $1", values: [id] },
      Array.from({ length: 10 }, (_, index) => ways[index % 2]!),
    );
    const won = new Set(
      outcomes.flatMap((each) => (each.status === "fulfilled" ? [each.value["status"]] : [])),
    );
    expect([...won]).toEqual([(await ledger.hold(id))["status"]]);
    const lost = outcomes.filter((each) => each.status === "rejected");
    expect(lost.map((each) => each.reason.code)).toEqual(
      Array.from({ length: 5 }, () => "reservation_closed"),
    );
    expect(await broken()).toEqual([]);
  });
});

describe("it refuses", () => {
  test.each(ends)("to %s what was settled", async (end) => {
    const { tenantId, id } = await held();
    await ledger.settle(tenantId, id, 100, 0);
    const refused = await refusal(ledger[end](tenantId, id), "reservation_closed");
    expect(refused.detail).toMatchObject({ reservation_id: id, status: "APPLIED", wanted: statusOf[end] });
    expect(await balances(tenantId)).toMatchObject([{ reserved: 0, presumed: 0, spent: 100_000 }]);
  });

  test("to release what is presumed: that nothing was billed is no longer known", async () => {
    const { tenantId, id } = await held();
    await ledger.presume(tenantId, id);
    await refusal(ledger.release(tenantId, id), "reservation_closed");
    expect(await balances(tenantId)).toMatchObject([{ presumed: 1_000_000 }]);
  });

  test("to presume what was released", async () => {
    const { tenantId, id } = await held();
    await ledger.release(tenantId, id);
    await refusal(ledger.presume(tenantId, id), "reservation_closed");
    expect(await balances(tenantId)).toMatchObject([{ reserved: 0, presumed: 0 }]);
  });

  test.each(ends)("to %s what is not there", async (end) => {
    const { tenantId } = await held();
    await refusal(ledger[end](tenantId, randomUUID()), "reservation_not_found");
    await refusal(ledger[end](tenantId, null as unknown as string), "reservation_not_found");
  });

  test("whoever asks: not even a superuser changes how a hold ended, or its amount", async () => {
    const { tenantId, id } = await held();
    await ledger.release(tenantId, id);
    for (const change of [
      "status = 'RESERVED', closed_at = null",
      "estimated_cost_nanousd = 1",
      "price_ids = '{}'",
    ]) {
      await expect(
        database.superuser.query(`update app.llm_reservations set ${change} where id = $1`, [id]),
      ).rejects.toMatchObject({
        code: "LB201",
        message: "reservation_closed",
      });
    }
  });
});

describe("a stranger gets nothing", () => {
  test.each(ends)("to %s", async (end) => {
    const { tenantId, id } = await held();
    const text = `select * from app.llm_${end}($1, $2, $3, 'mine')`;
    const stranger = await strangerIsRefused(database, database.service, tenantId, text, [id]);
    await refusal(ledger[end](stranger.tenantId, id), "reservation_not_found");
    expect(await ledger.hold(id)).toMatchObject({ status: "RESERVED", reason: null });
  });
});
