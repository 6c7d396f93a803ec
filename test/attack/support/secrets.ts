// What only the database knows, in the ways in which a server may print bytes.
import type { TestDatabase } from "../../support/database.ts";

/** The seal secret and the padded keys of tickets: hex, base64, octal escapes, and numbers with a sign and without. */
export async function secretForms({ superuser }: TestDatabase): Promise<string[]> {
  const { rows } = await superuser.query<{ bytes: Buffer }>(
    `select secret as bytes from app_private.seal_secret
     union all select ipad from app_private.ticket_keys
     union all select opad from app_private.ticket_keys`,
  );
  // The beginning is enough: the padding of a key is the same for all.
  return rows.flatMap(({ bytes }) => {
    const start = [...bytes.subarray(0, 12)];
    return [
      bytes.subarray(0, 12).toString("hex"),
      bytes.subarray(0, 12).toString("base64"),
      start.join(" "),
      start.map((byte) => (byte > 127 ? byte - 256 : byte)).join(" "),
      start.join(", "),
    ];
  });
}
