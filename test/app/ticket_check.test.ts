// sql/app/ticket_check.sql: a program finds out whether its key is right, and learns nothing else.
import { randomBytes, randomUUID } from "node:crypto";
import { afterEach, expect, test, vi } from "vitest";
import { mintTicket } from "../../src/tickets.ts";
import { TEST_TICKET_KEY } from "../support/constants.ts";
import { testDatabase } from "../support/database.ts";
import { rolledBack } from "../support/rolled_back.ts";

const database = testDatabase();
afterEach(() => vi.useRealTimers());

async function check(ticket: string | null): Promise<unknown> {
  return (await database.service.pool.query("select app.ticket_check($1) as valid", [ticket])).rows[0].valid;
}

function mintedAt(msFromNow: number): string {
  vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + msFromNow });
  try {
    return mintTicket(TEST_TICKET_KEY, randomUUID(), 0);
  } finally {
    vi.useRealTimers();
  }
}

test("a genuine ticket is good, as often as it is asked, whether its tenant exists or not", async () => {
  const { tenantId } = await database.addTenant();
  for (const ticket of [database.ticket(tenantId), database.ticket(randomUUID())]) {
    expect([await check(ticket), await check(ticket)]).toEqual([true, true]);
  }
});

test.each<[string, () => string | null]>([
  ["of another key", () => mintTicket({ ...TEST_TICKET_KEY, secret: randomBytes(32) }, randomUUID(), 0)],
  ["of a key number that is not known", () => mintTicket({ ...TEST_TICKET_KEY, kid: 99 }, randomUUID(), 0)],
  ["of another backend", () => mintTicket(TEST_TICKET_KEY, randomUUID(), 999_999)],
  ["of a clock a minute behind", () => mintedAt(-60_000)],
  ["that is no ticket", () => "x"],
  ["that is null", () => null],
])("a ticket %s is not, and no reason is given", async (_what, ticketOf) => {
  expect(await check(ticketOf())).toBe(false);
});

test("it enters nobody", async () => {
  const { tenantId } = await database.addTenant();
  await rolledBack(database.service.pool, async (client) => {
    await client.query("select app.ticket_check($1)", [database.ticket(tenantId)]);
    await client.query("set local row_security = on; set local role holdfast_tenant");
    await expect(client.query("select from tenant.tenants")).rejects.toMatchObject({ code: "RL101" });
  });
});

test("the worker may ask too, people in psql may not", async () => {
  const text = "select app.ticket_check($1) as valid";
  expect((await database.worker.pool.query(text, [database.ticket(randomUUID())])).rows).toEqual([
    { valid: true },
  ]);
  await expect(database.ops.query(text, ["x"])).rejects.toMatchObject({ code: "42501" });
});
