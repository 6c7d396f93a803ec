// sql/ops/become.sql and sql/ops/enter.sql: a person sees what one tenant sees, and leaves a trace.
import type pg from "pg";
import { beforeAll, expect, test } from "vitest";
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
        next: "begin; select ops.enter(); select …; commit;",
      },
    ]);
    const minutes = (rows[0].expires_at - Date.now()) / 60_000;
    expect(minutes).toBeGreaterThan(58);
    expect(minutes).toBeLessThan(61);

    for (const end of ["commit", "rollback", "commit"]) {
      await client.query("begin");
      expect((await client.query("select ops.enter() as id")).rows).toEqual([{ id: mine.tenantId }]);
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
