// Tickets of any tenant that open nothing: late, cut, bent, of another backend, signed by nobody.
import { createHmac } from "node:crypto";
import { TEST_TICKET_KEY } from "../support/constants.ts";

const now = () => Math.floor(Date.now() / 1_000);

function signed(
  tenantId: string,
  { pid = 0, expiry = now() + 30, secret = TEST_TICKET_KEY.secret } = {},
): string {
  const body = `v1.${TEST_TICKET_KEY.kid}.${tenantId}.${pid}.${expiry}`;
  return `${body}.${createHmac("sha256", secret).update(body).digest("hex")}`;
}

/** One of each kind; `own` is a good ticket of another tenant, which lends its parts. */
export function staleTickets(tenantId: string, own: string): Record<string, string> {
  const good = signed(tenantId);
  const [ours, theirs] = [own.split("."), good.split(".")];
  return {
    late: signed(tenantId, { expiry: now() - 1 }),
    of_1970: signed(tenantId, { expiry: 0 }),
    other_backend: signed(tenantId, { pid: 999_999_999 }),
    forged: signed(tenantId, { secret: Buffer.from("nobody's key") }),
    cut: good.slice(0, -1),
    half: good.slice(0, 60),
    bent: good.slice(0, -1) + (good.endsWith("0") ? "1" : "0"),
    own_signature: [...theirs.slice(0, 5), ours[5]].join("."),
    own_name: [...theirs.slice(0, 2), ours[2], ...theirs.slice(3)].join("."),
    capitals: good.toUpperCase(),
    twice: `${good}${good}`,
    spaced: ` ${good}`,
  };
}
