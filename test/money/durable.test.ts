// What a caller was told of a hold is on the disk when it hears it, whatever its session or the server says.
import { beforeAll, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";

const database = testDatabase();
const ledger = ledgerOf(database);
let tenantId = "";

beforeAll(async () => {
  await ledger.setPrices();
  tenantId = (await database.addTenant()).tenantId;
});

test.each([
  ["llm_settle", "select * from app.llm_settle($1, $2, $3, 1, 1)"],
  ["llm_release", "select * from app.llm_release($1, $2, $3, 'never sent')"],
  ["llm_presume", "select * from app.llm_presume($1, $2, $3, 'no answer')"],
  ["llm_extend", "select * from app.llm_extend($1, $2, $3, '1 minute')"],
])("the commit of %s waits for the disk", async (_name, text) => {
  const { id } = await ledger.reserve(tenantId);
  const client = await database.service.pool.connect();
  try {
    await client.query("begin");
    await client.query("set local synchronous_commit = off");
    await client.query(text, [tenantId, database.ticket(tenantId), id]);
    // It is read when the transaction commits, so it must outlive the function.
    expect((await client.query("show synchronous_commit")).rows).toEqual([{ synchronous_commit: "on" }]);
  } finally {
    await client.query("rollback");
    client.release();
  }
});
