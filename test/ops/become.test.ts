// sql/ops/become.sql and sql/ops/enter.sql: a person sees what one tenant sees, and leaves a trace.
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type pg from "pg";
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { rolledBack } from "../support/rolled_back.ts";

const database = testDatabase();
const mine = { tenantId: "", name: "" };

beforeAll(async () => {
  Object.assign(mine, await database.addTenant());
  await database.addTenant();
});

/** A connection of a person's own: what is set in it must not reach the next. */
async function inPsql<T>(work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await database.ops.connect();
  try {
    return await work(client);
  } finally {
    client.release(true);
  }
}

const become = "select * from ops.become($1, reason => 'a question of theirs')";

test("a person becomes the tenant in one transaction after another, and is a person again after each", async () => {
  await inPsql(async (client) => {
    const { rows } = await client.query(become, [mine.name]);
    expect(rows).toEqual([
      {
        tenant_id: mine.tenantId,
        expires_at: expect.any(Date),
        next: "begin; select ops.enter(); select … from tenant.…; commit;",
      },
    ]);
    const minutes = (rows[0].expires_at - Date.now()) / 60_000;
    expect(minutes).toBeGreaterThan(58);
    expect(minutes).toBeLessThan(61);

    for (const end of ["commit", "rollback", "commit"]) {
      await client.query("begin");
      expect((await client.query("select ops.enter() as name")).rows).toEqual([{ name: mine.name }]);
      const { rows: seen } = await client.query("select current_user, tenant_id from tenant.tenants");
      expect(seen).toEqual([{ current_user: "holdfast_tenant", tenant_id: mine.tenantId }]);
      await expectRefused(client, "select from ops.tenants", "42501");
      await expectRefused(client, "update app.tenants set name = 'x'", "42501");
      await client.query(end);
      expect((await client.query("select current_user::text as name")).rows).toEqual([
        { name: "holdfast_ops" },
      ]);
    }
  });
});

test("it leaves a row in the audit log, without the ticket; a rolled back one leaves neither", async () => {
  const { tenantId, name } = await database.addTenant();
  await inPsql(async (client) => {
    await client.query("begin");
    await client.query(become, [name]);
    await client.query("rollback");
    await expectNoTicket(client);

    const { rows: me } = await client.query("select pg_backend_pid() as pid");
    await client.query(become, [name]);
    const { rows } = await client.query("select * from ops.audit_log where subject = $1 order by id", [name]);
    expect(rows.slice(1)).toMatchObject([
      {
        actor: "holdfast_ops",
        action: "become",
        reason: "a question of theirs",
        before: null,
        after: { tenant_id: tenantId, backend: me[0].pid },
      },
    ]);
    expect(JSON.stringify(rows)).not.toMatch(/v1\.\d/);
  });
});

test("the ticket is good for this connection alone, and for its minutes", async () => {
  await inPsql(async (client) => {
    await client.query(become, [mine.name]);
    const { rows } = await client.query("select current_setting('app.become_ticket') as ticket");
    const [version, , tenant, pid, expiry] = rows[0].ticket.split(".");
    expect([version, tenant]).toEqual(["v1", mine.tenantId]);
    expect(Number(pid)).toBe((await client.query("select pg_backend_pid() as pid")).rows[0].pid);
    expect(Number(expiry) - Date.now() / 1000).toBeGreaterThan(3_500);

    await inPsql(async (other) => {
      await other.query("select set_config('app.become_ticket', $1, false)", [rows[0].ticket]);
      await other.query("begin");
      await expectRefused(other, "select ops.enter()", "RL101");
    });
  });
});

test.each(["", "nonsense", "v1.1.00000000-0000-0000-0000-000000000000.0.1.x", "v1.1.x"])(
  "entering with %j for a ticket is refused by name",
  async (ticket) => {
    await inPsql(async (client) => {
      await client.query("select set_config('app.become_ticket', $1, false)", [ticket]);
      await expectNoTicket(client);
    });
  },
);

test("no tenant of that name, no reason, no sensible time: refused, and nothing is left behind", async () => {
  await inPsql(async (client) => {
    const { rows: before } = await client.query("select count(*) from ops.audit_log");
    await expectRefused(client, "select ops.become('nobody', 'a reason')", "TN101");
    await expectRefused(client, `select ops.become('${mine.name}', ' ')`, "OP101");
    for (const minutes of ["0", "481", "-5", "null"])
      await expectRefused(client, `select ops.become('${mine.name}', 'a reason', ${minutes})`, "OP102");
    expect((await client.query("select count(*) from ops.audit_log")).rows).toEqual(before);
    await expectNoTicket(client);
  });
});

/** Notices of one severity that came while `work` was done. */
async function notices(
  client: pg.PoolClient,
  severity: string,
  work: () => Promise<unknown>,
): Promise<string[]> {
  const heard: string[] = [];
  const hear = (notice: { severity?: string | undefined; message?: string | undefined }) => {
    if (notice.severity === severity) heard.push(notice.message ?? "");
  };
  client.on("notice", hear);
  await work();
  client.off("notice", hear);
  return heard;
}

test("entering outside of a transaction says that it ends at once; inside of one nothing is to be said", async () => {
  await inPsql(async (client) => {
    await client.query(become, [mine.name]);
    const enter = async () =>
      expect((await client.query("select ops.enter() as name")).rows).toEqual([{ name: mine.name }]);
    expect(await notices(client, "WARNING", enter)).toEqual([
      "this ends with its transaction: say begin first",
    ]);
    await expectRefused(client, "select from tenant.tenants", "42501");
    await client.query("begin");
    expect(await notices(client, "WARNING", enter)).toEqual([]);
    await client.query("select from tenant.tenants");
    await client.query("rollback");
  });
});

test("the server's log keeps what a rollback takes from the audit log, without the ticket", async () => {
  const { tenantId, name } = await database.addTenant();
  await inPsql(async (client) => {
    // What goes to the server's log is heard here too.
    await client.query("set client_min_messages = log");
    await client.query("begin");
    const heard = await notices(client, "LOG", () => client.query(become, [name]));
    await client.query("rollback");
    expect(heard).toEqual([
      expect.stringMatching(
        `^ops.become: holdfast_ops becomes tenant ${tenantId} until \\d{4}-.*: a question of theirs$`,
      ),
    ]);
    expect(heard[0]).not.toMatch(/v1\.\d/);
    const { rows } = await client.query(
      "select from ops.audit_log where subject = $1 and action = 'become'",
      [name],
    );
    expect(rows).toEqual([]);

    const log = await serverLog();
    if (log !== undefined) expect(log.slice(-1_000_000)).toContain(heard[0]);
  });
});

/** What the embedded server wrote; undefined of a server whose log is not beside its data, or not ours to read. */
async function serverLog(): Promise<string | undefined> {
  const { rows } = await database.superuser.query("select current_setting('data_directory') as path");
  return readFile(join(dirname(rows[0].path), "postgres.log"), "utf8").catch(() => undefined);
}

describe("what the ticket is signed with", () => {
  const sql = (text: string, values: unknown[] = []) => database.superuser.query(text, values);
  const ticketOf = async (client: pg.ClientBase): Promise<string> =>
    (await client.query("select current_setting('app.become_ticket') as ticket")).rows[0].ticket;
  /** Key 1 is in use, and so are these, each until then. */
  const addKeys = (...kids: number[]) =>
    sql(
      `insert into app_private.ticket_keys (kid, ipad, opad)
       select kid, sha256('a' || int4send(kid)) || sha256('b'), sha256('c' || int4send(kid)) || sha256('d')
       from unnest($1::int[]) as kid`,
      [kids],
    );
  const ends = (kid: number, minutes: number) =>
    sql("update app_private.ticket_keys set not_after = now() + make_interval(mins => $2) where kid = $1", [
      kid,
      minutes,
    ]);
  /** The number of the key, when the ticket opens. */
  async function signedWith(minutes: number): Promise<number> {
    return inPsql(async (client) => {
      await client.query("select from ops.become($1, 'a question', $2)", [mine.name, minutes]);
      await client.query("begin");
      await client.query("select ops.enter()");
      await client.query("rollback");
      return Number((await ticketOf(client)).split(".")[1]);
    });
  }

  afterEach(async () => {
    await sql("delete from app_private.ticket_keys where kid <> 1");
    await sql("update app_private.ticket_keys set not_after = null");
  });

  test("the newest key in use", async () => {
    expect(await signedWith(60)).toBe(1);
    await addKeys(12, 3);
    expect(await signedWith(60)).toBe(12);
  });

  test("never one that ends, while one is in use", async () => {
    await addKeys(2, 3);
    await ends(3, 600);
    await ends(2, -1);
    expect(await signedWith(1)).toBe(1);
  });

  test("of those that end, one that lasts as long as the ticket; when none does it is refused", async () => {
    await addKeys(2, 3);
    for (const [kid, minutes] of [
      [1, 90],
      [2, 30],
      [3, -5],
    ] as const)
      await ends(kid, minutes);
    expect([await signedWith(60), await signedWith(10)]).toEqual([1, 2]);
    await inPsql(async (client) => {
      const refused = await raised(client.query("select ops.become($1, 'a question', 120)", [mine.name]));
      expect(refused).toMatchObject({ sqlstate: "RL101", detail: { reason: "no ticket key is in use" } });
      expect(await ticketOf(client).catch(() => null)).toBe(null);
    });
  });

  test("it ends when the audit log and the answer say, and not a minute later", async () => {
    await inPsql(async (client) => {
      const { name } = await database.addTenant();
      const { rows } = await client.query("select * from ops.become($1, 'a question', 7)", [name]);
      const expiry = Number((await ticketOf(client)).split(".")[4]) * 1000;
      const { rows: audit } = await client.query(
        "select after from ops.audit_log where subject = $1 and action = 'become'",
        [name],
      );
      expect([rows[0].expires_at.getTime(), Date.parse(audit[0].after.expires_at)]).toEqual([expiry, expiry]);
      expect(Math.abs(expiry - Date.now() - 7 * 60_000)).toBeLessThan(5_000);
    });
  });

  test("one that has expired enters nothing", async () => {
    await inPsql(async (client) => {
      await client.query(become, [mine.name]);
      for (const [expiresIn, refused] of [
        [30, false],
        [-2, true],
      ] as const) {
        const { rows } = await sql(
          "select app_private.ticket_make($1, $2, clock_timestamp() + make_interval(secs => $3)) as ticket",
          [mine.tenantId, (await client.query("select pg_backend_pid() as pid")).rows[0].pid, expiresIn],
        );
        await client.query("select set_config('app.become_ticket', $1, false)", [rows[0].ticket]);
        await client.query("begin");
        if (refused) {
          expect((await raised(client.query("select ops.enter()"))).detail).toEqual({
            reason: "the ticket has expired: is the clock of the caller right?",
          });
        } else {
          await client.query("select ops.enter()");
        }
        await client.query("rollback");
      }
    });
  });
});

test("nobody else may: the logins of the shell, and the tenant role", async () => {
  for (const db of [database.service, database.worker]) {
    await rolledBack(db.pool, (client) =>
      expectRefused(client, "select ops.become('x', 'a reason')", "42501"),
    );
  }
  await inPsql(async (client) => {
    await client.query(become, [mine.name]);
    await client.query("begin; select ops.enter()");
    await expectRefused(client, `select ops.become('${mine.name}', 'a reason')`, "42501");
    await expectRefused(client, "select app_private.ticket_make(gen_random_uuid(), 0, now())", "42501");
  });
});

async function expectNoTicket(client: pg.ClientBase): Promise<void> {
  await expectRefused(client, "select ops.enter()", "RL101");
  await client.query("reset row_security");
}

async function expectRefused(client: pg.ClientBase, text: string, sqlstate: string): Promise<void> {
  const inside =
    (await client.query("select now() = statement_timestamp() as alone")).rows[0].alone === false;
  if (inside) await client.query("savepoint before");
  await expect(client.query(text), text).rejects.toMatchObject({ code: sqlstate });
  if (inside) await client.query("rollback to before");
}
