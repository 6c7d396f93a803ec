import { createHash, createHmac, randomBytes, randomUUID } from "node:crypto";
import fc from "fast-check";
import { afterEach, describe, expect, test, vi } from "vitest";
import { mintTicket, STATEMENT_MS, ticketPads } from "../src/tickets.ts";

const key = { kid: 12, secret: randomBytes(32) };

test("a ticket names its version, key, tenant, backend and expiry, and signs all of them", () => {
  const tenantId = randomUUID();
  const parts = mintTicket(key, tenantId, 4711).split(".");

  expect(parts.slice(0, 4)).toEqual(["v1", "12", tenantId, "4711"]);
  expect(parts[4]).toMatch(/^\d{10}$/);
  expect(parts[5]).toBe(createHmac("sha256", key.secret).update(parts.slice(0, 5).join(".")).digest("hex"));
  expect(parts).toHaveLength(6);
});

describe("a ticket expires", () => {
  afterEach(() => vi.useRealTimers());
  const now = 1_800_000_000_400;

  test.each([
    ["at the deadline of the work, rounded up", now + 60_000, 1_800_000_061],
    ["to the millisecond where that is a whole second", 1_800_000_060_000, 1_800_000_060],
    ["10 s from now at the least: two clocks may differ", now + 1, 1_800_000_011],
    ["10 s from now also when the deadline is over", now - 60_000, 1_800_000_011],
    ["with a statement of its role's time limit, when no deadline is told", undefined, 1_800_000_016],
  ])("%s", (_when, deadline, expiry) => {
    vi.useFakeTimers({ toFake: ["Date"], now });
    expect(STATEMENT_MS).toBe(15_000);
    expect(Number(mintTicket(key, randomUUID(), 0, deadline).split(".")[4])).toBe(expiry);
  });
});

test("a tenant id in capitals gives the ticket that the database expects", () => {
  const tenantId = randomUUID();
  expect(mintTicket(key, tenantId.toUpperCase(), 0).split(".")[2]).toBe(tenantId);
});

test("another key, tenant or backend gives another signature", () => {
  const [tenantId, other] = [randomUUID(), randomUUID()];
  const signatures = [
    mintTicket(key, tenantId, 1),
    mintTicket({ ...key, kid: 13 }, tenantId, 1),
    mintTicket({ ...key, secret: randomBytes(32) }, tenantId, 1),
    mintTicket(key, other, 1),
    mintTicket(key, tenantId, 2),
  ].map((ticket) => ticket.split(".")[5]);
  expect(new Set(signatures).size).toBe(signatures.length);
});

test("the two pads make HMAC-SHA256 of two plain hashes, as RFC 2104 says", () => {
  const sha256 = (...parts: Uint8Array[]) => createHash("sha256").update(Buffer.concat(parts)).digest();
  const secrets = fc.uint8Array({ minLength: 1, maxLength: 64 });
  fc.assert(
    fc.property(secrets, fc.uint8Array(), (secret, message) => {
      const { ipad, opad } = ticketPads(Buffer.from(secret));
      expect([ipad.length, opad.length]).toEqual([64, 64]);
      expect(sha256(opad, sha256(ipad, message))).toEqual(
        createHmac("sha256", secret).update(message).digest(),
      );
    }),
  );
});
