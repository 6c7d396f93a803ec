// A process that keeps settlements while its database is away, for the test that kills it. It prints the id of each that is
// on the disk.
import pino from "pino";
import { createPool } from "../../src/db.ts";
import { startSpool } from "../../src/llm/spool.ts";
import { TEST_TICKET_KEY } from "./constants.ts";

const { directory, tenantId, ids } = JSON.parse(process.env["TEST_SPOOL"] ?? "");
const pool = createPool({
  connectionString: "postgresql://nobody@127.0.0.1:1/nowhere",
  application_name: "test",
});
const db = { pool, ticketKey: TEST_TICKET_KEY };
const spool = startSpool({ directory, db, log: pino({ level: "silent" }), everyMs: 5 });
for (const reservationId of ids) {
  const usage = { inputTokens: 100, outputTokens: 20, cachedInputTokens: 0 };
  await spool.add(tenantId, { reservationId, usage });
  process.stdout.write(`${reservationId}\n`);
}
