// Tickets: what lets one transaction act for one tenant. The database can check one; no role of the shell can make one.
import { createHmac } from "node:crypto";

/** A signing key that the database knows by `kid`; `secret` is 32 random bytes. */
export type TicketKey = { kid: number; secret: Buffer };

/** What tickets of a key are good for: the one backend that they name, or any, which a transaction pooler needs. */
export type TicketBinding = "backend" | "none";

/** What the roles of the shell give a statement, in ms: sql/roles.sql sets it. */
export const STATEMENT_MS = 15_000;

/** The least time that a ticket is good for, in ms: by so much the clocks of two hosts may differ. */
const LEAST_MS = 10_000;

/**
 * Mints `v1.<kid>.<tenant>.<pid>.<unix expiry>.<hmac-sha256>`.
 * `pid` is the backend it is good for; 0 names none, for a key whose binding is `none`. It expires at the `deadline` of
 * the work, in ms of Unix time and rounded up to a second, but lives 10 s at least.
 */
export function mintTicket(
  key: TicketKey,
  tenantId: string,
  pid: number,
  deadline: number = Date.now() + STATEMENT_MS,
): string {
  const expiry = Math.ceil(Math.max(deadline, Date.now() + LEAST_MS) / 1000);
  const body = `v1.${key.kid}.${tenantId.toLowerCase()}.${pid}.${expiry}`;
  return `${body}.${createHmac("sha256", key.secret).update(body).digest("hex")}`;
}

/** The two padded keys of HMAC (RFC 2104, block of 64 bytes), so that SQL can verify with sha256 alone. */
export function ticketPads(secret: Buffer): { ipad: Buffer; opad: Buffer } {
  const block = Buffer.alloc(64);
  secret.copy(block);
  return {
    ipad: block.map((byte) => byte ^ 0x36) as Buffer,
    opad: block.map((byte) => byte ^ 0x5c) as Buffer,
  };
}
