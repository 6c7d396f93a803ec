// sql/ops/ticket_key_set.sql, ticket_key_retire.sql and the view: keys come with a migration, and people end them.
import { randomBytes } from "node:crypto";
import type pg from "pg";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { registerTicketKey } from "../../src/migrate.ts";
import { mintTicket, type TicketKey } from "../../src/tickets.ts";
import { TEST_TICKET_KEY } from "../support/constants.ts";
import { collide, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { rolledBack } from "../support/rolled_back.ts";

const database = testDatabase();
const secret = randomBytes(32);

// A new key takes its binding from the newest in use.
beforeEach(() => database.superuser.query("update app_private.ticket_keys set binding = 'backend'"));
afterEach(restore);

/** Key 1 alone, as it was. */
async function restore(): Promise<void> {
  await database.superuser.query("delete from app_private.ticket_keys where kid <> 1");
  await database.superuser.query("update app_private.ticket_keys set not_after = null, binding = 'none'");
}

async function addKey(kid: number): Promise<void> {
  const client = await database.superuser.connect();
  await registerTicketKey(client, { ...TEST_TICKET_KEY, kid, secret }).finally(() => client.release());
}

/** Whether a ticket of this key opens a tenant: one that names its backend, or one that names none. */
async function opens(key: { kid: number; secret: Buffer }, named: boolean): Promise<boolean> {
  const { tenantId } = await database.addTenant();
  return rolledBack(database.service.pool, async (client) => {
    const pid = named ? (await client.query("select pg_backend_pid() as pid")).rows[0].pid : 0;
    const ticket = mintTicket({ ...TEST_TICKET_KEY, ...key } as TicketKey, tenantId, pid);
    return client.query("select app.enter($1, $2)", [tenantId, ticket]).then(
      () => true,
      (error: pg.DatabaseError) => {
        expect(error).toMatchObject({ code: "RL101", message: "rls_enforcement_failed" });
        return false;
      },
    );
  });
}

const keys = async () => (await database.ops.query("select kid, state, binding from ops.ticket_keys")).rows;
const audited = async () =>
  (
    await database.ops.query(
      "select action, subject, before, after from ops.audit_log where action ~ '^ticket' order by id desc limit 1",
    )
  ).rows[0];

test("a new key wants tickets that name their backend", async () => {
  await addKey(2);
  expect(await keys()).toEqual([
    { kid: 1, state: "in use", binding: "backend" },
    { kid: 2, state: "in use", binding: "backend" },
  ]);
  expect(await opens({ kid: 2, secret }, true)).toBe(true);
  expect(await opens({ kid: 2, secret }, false)).toBe(false);
});

describe("ticket_key_set", () => {
  test("lets tickets of a key name no backend, and takes it back", async () => {
    await addKey(2);
    const set = (binding: string, dryRun = false) =>
      database.ops.query("select * from ops.ticket_key_set(2, $1, 'behind a pooler', $2)", [binding, dryRun]);
    expect((await set("none", true)).rows).toEqual([{ key_id: 2, before: "backend", after: "none" }]);
    expect(await opens({ kid: 2, secret }, false)).toBe(false);

    for (const before of ["backend", "none"]) {
      expect((await set("none")).rows).toEqual([{ key_id: 2, before, after: "none" }]);
      expect(await opens({ kid: 2, secret }, false)).toBe(true);
    }
    await set("backend");
    expect(await opens({ kid: 2, secret }, false)).toBe(false);
    expect(await audited()).toEqual({
      action: "ticket_key_set",
      subject: "ticket key 2",
      before: { binding: "none" },
      after: { binding: "backend" },
    });
  });

  test.each([
    ["select ops.ticket_key_set(99, 'none', 'a reason')", "TK101", "ticket_key_not_found"],
    ["select ops.ticket_key_set(null, 'none', 'a reason')", "TK101", "ticket_key_not_found"],
    ["select ops.ticket_key_set(1, 'pid', 'a reason')", "OP102", "argument_invalid"],
    ["select ops.ticket_key_set(1, null, 'a reason')", "OP102", "argument_invalid"],
    ["select ops.ticket_key_set(1, 'none', '')", "OP101", "reason_required"],
  ])("%s is refused", async (text, sqlstate, name) => {
    expect(await raised(database.ops.query(text))).toMatchObject({ sqlstate, name });
  });
});

describe("ticket_key_retire", () => {
  const retire = (kid: number, after: string, dryRun = false) =>
    database.ops.query("select * from ops.ticket_key_retire($1, 'a new one', $2, $3)", [kid, after, dryRun]);

  test("both keys open during the overlap; then the old one does not, the new one does", async () => {
    await addKey(2);
    await retire(1, "1 hour", true);
    expect((await keys())[0]).toMatchObject({ state: "in use" });

    await retire(1, "1 hour");
    expect((await keys())[0]).toMatchObject({ kid: 1, state: "ending" });
    expect(await opens(TEST_TICKET_KEY, true)).toBe(true);
    expect(await opens({ kid: 2, secret }, true)).toBe(true);

    await retire(1, "0");
    expect((await keys())[0]).toMatchObject({ kid: 1, state: "retired" });
    expect(await opens(TEST_TICKET_KEY, true)).toBe(false);
    expect(await opens({ kid: 2, secret }, true)).toBe(true);
    expect(await audited()).toMatchObject({ action: "ticket_key_retire", subject: "ticket key 1" });

    const { rows } = await database.service.pool.query(
      "select app.ticket_binding(1) as old, app.ticket_binding(2) as new, app.ticket_binding(3) as absent",
    );
    expect(rows).toEqual([{ old: null, new: "backend", absent: null }]);
  });

  test("an end that was given never moves to a later time", async () => {
    await addKey(2);
    const ends = async (...[kid, after]: Parameters<typeof retire>): Promise<number> => {
      const { rows } = await retire(kid, after);
      const { rows: kept } = await database.superuser.query(
        "select not_after from app_private.ticket_keys where kid = $1",
        [kid],
      );
      expect(kept).toEqual([{ not_after: rows[0].ends_at }]);
      expect((await audited()).after).toEqual({ not_after: expect.any(String) });
      return rows[0].ends_at.getTime();
    };
    const inAnHour = await ends(1, "1 hour");
    expect(Math.abs(inAnHour - Date.now() - 3_600_000)).toBeLessThan(5_000);
    expect(await ends(1, "2 hours")).toBe(inAnHour);
    const soon = await ends(1, "10 minutes");
    expect(Math.abs(soon - Date.now() - 600_000)).toBeLessThan(5_000);
    const atOnce = await ends(1, "0");
    expect(Math.abs(atOnce - Date.now())).toBeLessThan(5_000);
    const defaulted = await database.ops.query("select * from ops.ticket_key_retire(1, 'once more')");
    expect(defaulted.rows).toEqual([{ key_id: 1, before: new Date(atOnce), ends_at: new Date(atOnce) }]);
    expect(await ends(1, "30 days")).toBe(atOnce);
    expect((await keys())[0]).toMatchObject({ kid: 1, state: "retired" });
    expect(await opens(TEST_TICKET_KEY, true)).toBe(false);
  });

  test("the last key in use stays, whoever is faster", async () => {
    expect(await raised(retire(1, "1 hour"))).toMatchObject({ sqlstate: "TK201", name: "ticket_key_last" });
    for (const _ of Array(3)) {
      await addKey(2);
      const held = { text: "select from app_private.ticket_keys" };
      const both = await collide(database, held, [() => retire(1, "0"), () => retire(2, "0")]);
      expect(both.map((each) => each.status).sort()).toEqual(["fulfilled", "rejected"]);
      expect(both.find((each) => each.status === "rejected")).toMatchObject({
        reason: { code: "TK201", message: "ticket_key_last" },
      });
      expect((await keys()).map((key) => key.state).sort()).toEqual(["in use", "retired"]);
      await restore();
    }
  });

  test.each([
    ["select ops.ticket_key_retire(99, 'a reason')", "TK101"],
    ["select ops.ticket_key_retire(1, 'a reason', '-1 second')", "OP102"],
    ["select ops.ticket_key_retire(1, 'a reason', '31 days')", "OP102"],
    ["select ops.ticket_key_retire(1, 'a reason', null)", "OP102"],
    ["select ops.ticket_key_retire(1, null)", "OP101"],
  ])("%s is refused", async (text, sqlstate) => {
    expect(await raised(database.ops.query(text))).toMatchObject({ sqlstate });
  });
});

test("people read no key, and nobody else sees the list", async () => {
  await rolledBack(database.ops, (client) =>
    expect(client.query("select from app_private.ticket_keys")).rejects.toMatchObject({ code: "42501" }),
  );
  for (const db of [database.service, database.worker]) {
    for (const text of ["select from ops.ticket_keys", "select ops.ticket_key_retire(1, 'a reason')"])
      await expect(db.pool.query(text)).rejects.toMatchObject({ code: "42501" });
  }
});
