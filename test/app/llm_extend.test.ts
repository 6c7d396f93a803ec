// sql/app/llm_extend.sql: the heartbeat of a call that goes on.
import { randomUUID } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import { bytesOf, refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { holdsOf } from "../support/holds.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
const holds = holdsOf(database);
const { extend, tenantWith, counters, sound } = holds;

beforeAll(() => ledger.setPrices());

async function held(asked = {}): Promise<{ tenantId: string; id: string }> {
  const { tenantId } = await tenantWith({ limit: 10_000_000 });
  return { tenantId, id: await holds.hold(tenantId, asked) };
}

/** Seconds from now until a hold expires. */
const left = (row: Record<string, unknown>) =>
  Math.round(((row["expires_at"] as Date).getTime() - Date.now()) / 1_000);

const backdate = (id: string, by: string) =>
  database.superuser.query(
    "update app.llm_reservations set created_at = created_at - $2::interval, expires_at = expires_at - $2::interval where id = $1",
    [id, by],
  );

describe("it works", () => {
  test("the hold lasts ttl from now, at most an hour", async () => {
    const { tenantId, id } = await held({ ttl_ms: 1_000 });
    const row = await extend(tenantId, id, "1 hour");
    expect(row).toMatchObject({ id, status: "RESERVED" });
    expect(Math.abs(left(row) - 3_600)).toBeLessThan(10);
    expect((await ledger.hold(id))["expires_at"]).toEqual(row["expires_at"]);
    expect(await counters(tenantId)).toMatchObject([{ reserved: 1_000_000 }]);
    await sound();
  });

  test("it is not swept while it is extended", async () => {
    const { tenantId, id } = await held({ ttl_ms: 60_000 });
    await backdate(id, "59 seconds");
    await extend(tenantId, id, "1 minute");
    await new Promise((done) => setTimeout(done, 1_100));
    expect(await holds.expire()).not.toContain(id);
    expect(await holds.status(id)).toBe("RESERVED");
  });

  test("a stream is settled in parts and extended by turns", async () => {
    const { tenantId, id } = await held();
    for (const tokens of [100, 200]) {
      await holds.settle(tenantId, id, { input_tokens: tokens, output_tokens: 0, final: false });
      await extend(tenantId, id, "5 minutes");
    }
    expect(await counters(tenantId)).toMatchObject([{ reserved: 800_000, spent: 200_000 }]);
    await sound();
  });
});

describe("it works twice", () => {
  test("it never makes a hold shorter", async () => {
    const { tenantId, id } = await held({ ttl_ms: 3_000_000 });
    const before = (await ledger.hold(id))["expires_at"];
    expect((await extend(tenantId, id, "0"))["expires_at"]).toEqual(before);
    expect((await extend(tenantId, id, "1 minute"))["expires_at"]).toEqual(before);
  });

  test("a day in all, however often", async () => {
    const { tenantId, id } = await held({ ttl_ms: 3_600_000 });
    await database.superuser.query(
      "update app.llm_reservations set created_at = created_at - interval '23 hours 30 minutes' where id = $1",
      [id],
    );
    for (let n = 0; n < 3; n += 1)
      expect(Math.abs(left(await extend(tenantId, id, "1 hour")) - 1_800)).toBeLessThan(10);
  });
});

describe("it refuses", () => {
  test("what is past its time, before the sweeper has come by, and changes nothing", async () => {
    const { tenantId, id } = await held();
    await backdate(id, "3 minutes");
    const before = await ledger.hold(id);
    const refused = await refusal(extend(tenantId, id, "1 minute"), "reservation_closed");
    expect(refused).toMatchObject({ status: 409, detail: { reservation_id: id } });
    expect(await ledger.hold(id)).toEqual(before);
    expect(await counters(tenantId)).toMatchObject([{ reserved: 1_000_000 }]);
  });

  test("what has ended, in whatever way", async () => {
    const { tenantId } = await tenantWith({ limit: 10_000_000 });
    const [settled, released, presumed, writtenOff] = [
      await holds.hold(tenantId),
      await holds.hold(tenantId),
      await holds.hold(tenantId),
      await holds.hold(tenantId),
    ];
    await holds.settle(tenantId, settled);
    await holds.release(tenantId, released);
    for (const id of [presumed, writtenOff]) await holds.presume(tenantId, id);
    await holds.writeOff(writtenOff);
    for (const id of [settled, released, presumed, writtenOff])
      await refusal(extend(tenantId, id, "1 minute"), "reservation_closed");
    await sound();
  });

  test.each([[null], ["-1 second"], ["1 hour 1 microsecond"], ["1 month"], ["1 month -30 days -1 second"]])(
    "a ttl of %s",
    async (ttl) => {
      const { tenantId, id } = await held();
      const before = await ledger.hold(id);
      expect((await refusal(extend(tenantId, id, ttl), "reservation_invalid")).status).toBe(400);
      expect(await ledger.hold(id)).toEqual(before);
    },
  );
});

describe("a stranger gets nothing", () => {
  test("with another ticket; and a foreign id is answered in the bytes of an absent one, or of none", async () => {
    const { tenantId, id } = await held();
    const before = await ledger.hold(id);
    const text = "select * from app.llm_extend($1, $2, $3, '1 minute')";
    const stranger = await strangerIsRefused(database, database.service, tenantId, text, [id]);
    const said = async (given: string | null) =>
      bytesOf(await refusal(extend(stranger.tenantId, given, "1 minute"), "reservation_not_found"));
    expect(await said(id)).toBe(await said(randomUUID()));
    expect(await said(null)).toBe(await said(randomUUID()));
    expect(await ledger.hold(id)).toEqual(before);
  });
});
