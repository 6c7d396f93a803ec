import { createHash, createHmac, randomBytes, randomUUID } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { mintTicket, TICKET_SECONDS, ticketPads } from "../src/tickets.ts";

const key = { kid: 12, secret: randomBytes(32) };

test("a ticket names its version, key, tenant, backend and expiry, and signs all of them", () => {
  const tenantId = randomUUID();
  const before = Math.floor(Date.now() / 1000);
  const parts = mintTicket(key, tenantId, 4711).split(".");
  const after = Math.floor(Date.now() / 1000);

  expect(parts.slice(0, 4)).toEqual(["v1", "12", tenantId, "4711"]);
  expect(Number(parts[4])).toBeGreaterThanOrEqual(before + TICKET_SECONDS);
  expect(Number(parts[4])).toBeLessThanOrEqual(after + TICKET_SECONDS);
  expect(parts[5]).toBe(createHmac("sha256", key.secret).update(parts.slice(0, 5).join(".")).digest("hex"));
  expect(parts).toHaveLength(6);
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
