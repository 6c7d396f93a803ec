// Tickets: what lets one transaction act for one tenant. The database can check one; no role of the shell can make one.
import { createHmac } from "node:crypto";

/** A signing key that the database knows by `kid`; `secret` is 32 random bytes. */
export type TicketKey = { kid: number; secret: Buffer };

/** How long a ticket opens its tenant, in seconds: longer than any statement may wait for a connection. */
export const TICKET_SECONDS = 30;

/**
 * Mints `v1.<kid>.<tenant>.<pid>.<unix expiry>.<hmac-sha256>`.
 * `pid` is the backend it is good for; 0 leaves it unbound, for a transaction pooler.
 */
export function mintTicket(key: TicketKey, tenantId: string, pid: number): string {
  const expiry = Math.floor(Date.now() / 1000) + TICKET_SECONDS;
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
