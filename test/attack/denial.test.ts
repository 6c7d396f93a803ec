// What one tenant keeps locked stops no other tenant: a transaction of its own is as long as it likes.
import { afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import type { Row } from "../support/contract.ts";
import { costsOf, usage } from "../support/costs.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf, RESERVE, reserveValues } from "../support/ledger.ts";
import { openSession, type Session } from "./support/session.ts";

const database = testDatabase();
const costs = costsOf(database);
const ledger = ledgerOf(database);
const sessions: Session[] = [];
let [mine, theirs] = ["", ""];

beforeAll(() => ledger.setPrices());
beforeEach(async () => {
  [mine, theirs] = [(await database.addTenant()).tenantId, (await database.addTenant()).tenantId];
});
afterEach(async () => {
  await Promise.all(sessions.splice(0).map((session) => session.end()));
  expect(await ledger.broken()).toEqual([]);
});

/** A transaction of a tenant that has asked these and goes on; `$1` and `$2` are the tenant and its ticket. */
async function keepsOpen(tenantId: string, ...calls: [text: string, values?: unknown[]][]): Promise<Session> {
  const session = await openSession({ connectionString: database.url("holdfast_service") });
  sessions.push(session);
  await session.ask("begin");
  for (const [text, values = []] of calls) {
    const given = text.includes("$1") ? [tenantId, database.ticket(tenantId), ...values] : [];
    expect(await session.ask(text, given)).toMatchObject({ error: undefined });
  }
  return session;
}

/** The rows of a call of the worker's that must not wait for a lock. */
async function atOnce(text: string): Promise<Row[]> {
  const client = await database.worker.pool.connect();
  try {
    await client.query("begin; set local lock_timeout = '1s'");
    const { rows } = await client.query(text);
    await client.query("commit");
    return rows;
  } finally {
    client.release(true); // an error has left it inside of its transaction
  }
}

async function loaded(tenantId: string, source: string): Promise<string> {
  const importId = await costs.start(tenantId, source);
  await costs.add(tenantId, importId, [usage("2026-10-10", 1)]);
  await costs.rollUp(tenantId, importId);
  return importId;
}

const importOf = async (id: string) =>
  (await database.superuser.query("select status from app.cost_imports where id = $1", [id])).rows[0].status;

const PUBLISH = "select from app.cost_import_publish($1, $2, $3)";

test.each([
  ["the same source", "aws", "aws"],
  ["a source of the other's name", "aws", "THEIRS"],
])("an import of another tenant is published besides one that is being published: %s", async (_, a, b) => {
  const [held, free] = [await loaded(mine, a), await loaded(theirs, b.replace("THEIRS", mine))];
  const holder = await keepsOpen(mine, [PUBLISH, [held]]);
  const other = await keepsOpen(theirs, ["set local lock_timeout = '1s'"], [PUBLISH, [free]]);
  await other.ask("commit");
  expect([await importOf(held), await importOf(free)]).toEqual(["LOADED", "PUBLISHED"]);
  await holder.ask("commit");
  expect(await importOf(held)).toBe("PUBLISHED");
});

const EXPIRE = "select reservation_id as id from app.llm_expire()";

test("holds of others expire while a tenant keeps its budget locked; its own when it lets go", async () => {
  const [held, free] = [await ledger.reserve(mine, { ttl: "0" }), await ledger.reserve(theirs, { ttl: "0" })];
  const holder = await keepsOpen(mine, [RESERVE, reserveValues()]);

  expect(await atOnce(EXPIRE)).toEqual([{ id: free["id"] }]);
  expect([await ledger.hold(held["id"]), await ledger.hold(free["id"])]).toMatchObject([
    { status: "RESERVED", reason: null },
    { status: "PRESUMED", reason: "expired" },
  ]);
  expect(await ledger.broken()).toEqual([]);
  expect(await Promise.all([atOnce(EXPIRE), atOnce(EXPIRE)])).toEqual([[], []]);

  await holder.ask("commit");
  const rest = await Promise.all([atOnce(EXPIRE), atOnce(EXPIRE)]);
  expect(rest.flat()).toEqual([{ id: held["id"] }]);
  expect(await ledger.balances(mine)).toEqual([
    { period: "month", reserved: 1_000_000, presumed: 1_000_000, spent: 0 },
  ]);
  expect(await ledger.balances(theirs)).toEqual([
    { period: "month", reserved: 0, presumed: 1_000_000, spent: 0 },
  ]);
});

const MAINTAIN = "select * from app.maintain()";

test("imports of others are swept while a tenant keeps an abandoned one locked; its own when it lets go", async () => {
  const [held, free] = [await loaded(mine, "aws"), await loaded(theirs, "aws")];
  await database.superuser.query("update app.cost_imports set started_at = now() - interval '25 hours'");
  const holder = await keepsOpen(mine, ["select app.cost_import_fail($1, $2, $3, '{}')", [held]]);

  expect(await atOnce(MAINTAIN)).toEqual([{ partitions_made: 0, partitions_dropped: 0, rows_swept: "2" }]);
  expect([await importOf(held), await importOf(free)]).toEqual(["LOADED", "FAILED"]);

  await holder.ask("rollback");
  expect(await atOnce(MAINTAIN)).toEqual([{ partitions_made: 0, partitions_dropped: 0, rows_swept: "2" }]);
  expect(await importOf(held)).toBe("FAILED");
});

/** It is missed, so that maintenance wants the lock that no reader leaves it. */
async function dropLastPartition(): Promise<void> {
  const { rows } = await database.superuser.query(
    `select inhrelid::regclass::text as name from pg_inherits where inhparent = 'app.events'::regclass
     order by 1 desc limit 1`,
  );
  await database.superuser.query(`drop table ${rows[0].name}`);
}

test("a tenant that reads on and on keeps partitions from being made, not imports from being swept", async () => {
  const failed = await loaded(theirs, "aws");
  await costs.fail(theirs, failed, {});
  await dropLastPartition();
  const reader = await keepsOpen(
    mine,
    ["select app.enter($1, $2)"],
    ["set local role holdfast_tenant"],
    ["select count(*) from tenant.events"],
  );
  const worker = await openSession({ connectionString: database.url("holdfast_worker") });
  sessions.push(worker);

  expect(await worker.ask(MAINTAIN)).toMatchObject({ rows: [{ partitions_made: 0, rows_swept: "2" }] });
  expect(worker.heard.filter((said) => said.includes('"WARNING"'))).toEqual([
    expect.stringContaining("app.events stayed locked and is left for the next time"),
  ]);
  const swept = "select swept_at is not null as swept from app.cost_imports where id = $1";
  expect((await database.superuser.query(swept, [failed])).rows).toEqual([{ swept: true }]);

  await reader.ask("commit");
  expect(await worker.ask(MAINTAIN)).toMatchObject({ rows: [{ partitions_made: 1, rows_swept: "0" }] });
});
test("a tenant whose locked holds would fill a whole call leaves room for those of others", async () => {
  for (let older = 0; older < 3; older += 1) await ledger.reserve(mine, { ttl: "0" });
  const free = await ledger.reserve(theirs, { ttl: "0" });
  const holder = await keepsOpen(mine, [RESERVE, reserveValues()]);
  expect(await atOnce("select reservation_id as id from app.llm_expire(2)")).toEqual([{ id: free["id"] }]);
  await holder.ask("rollback");
  expect(await atOnce(EXPIRE)).toHaveLength(3);
});
