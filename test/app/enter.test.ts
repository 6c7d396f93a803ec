import { createHmac, randomBytes, randomUUID } from "node:crypto";
import pg from "pg";
import { beforeAll, describe, expect, test } from "vitest";
import { mintTicket } from "../../src/tickets.ts";
import { TEST_TICKET_KEY } from "../support/constants.ts";
import { testDatabase } from "../support/database.ts";
import { rolledBack } from "../support/rolled_back.ts";

const database = testDatabase();
let mine = "";
let foreign = "";

beforeAll(async () => {
  mine = (await database.addTenant()).tenantId;
  foreign = (await database.addTenant()).tenantId;
});

async function enter(client: pg.ClientBase, tenantId: string | null, ticket: string | null): Promise<void> {
  await client.query("select app.enter($1, $2)", [tenantId, ticket]);
}

/** The tenant of the transaction, asked as the tenant role. */
async function entered(client: pg.ClientBase): Promise<string> {
  await client.query("set local role holdfast_tenant");
  const { rows } = await client.query("select app_private.current_tenant_id() as id");
  await client.query("reset role");
  return rows[0].id;
}

/** Lets a statement fail inside a transaction that goes on. */
async function refused(
  client: pg.ClientBase,
  text: string,
  values: unknown[] = [],
): Promise<pg.DatabaseError> {
  await client.query("savepoint before");
  const error = await client.query(text, values).then(
    () => new Error(`accepted: ${text}`),
    (caught: unknown) => caught,
  );
  await client.query("rollback to before");
  if (!(error instanceof pg.DatabaseError)) throw error;
  return error;
}

/** A ticket of six parts with a valid signature, whatever the parts say. */
function signed(
  parts: { kid?: string; tenant: string; pid?: string; expiry?: string },
  secret = TEST_TICKET_KEY.secret,
) {
  const expiry = parts.expiry ?? String(Math.floor(Date.now() / 1000) + 30);
  const body = `v1.${parts.kid ?? "1"}.${parts.tenant}.${parts.pid ?? "0"}.${expiry}`;
  return `${body}.${createHmac("sha256", secret).update(body).digest("hex")}`;
}

/** The ticket with one of its parts (0 to 5) replaced and the signature left as it was. */
function altered(ticket: string, part: number, value: (before: string) => string): string {
  return ticket
    .split(".")
    .map((each, index) => (index === part ? value(each) : each))
    .join(".");
}

const flipped = (hex: string) => hex.slice(0, -1) + (hex.endsWith("0") ? "1" : "0");

describe("a ticket of its own", () => {
  test("opens the tenant, as often as it is asked, for this transaction alone", async () => {
    const client = await database.service.pool.connect();
    try {
      await client.query("begin");
      await enter(client, mine, database.ticket(mine));
      await enter(client, mine, database.ticket(mine));
      expect(await entered(client)).toBe(mine);
      await client.query("commit");

      await client.query("begin");
      await client.query("set local row_security = on; set local role holdfast_tenant");
      const error = await refused(client, "select app_private.current_tenant_id()");
      expect(error).toMatchObject({ code: "RL101", message: "rls_enforcement_failed" });
      await client.query("rollback");
    } finally {
      client.release();
    }
  });

  test("stays open after a savepoint was rolled back, and closes with the savepoint it was opened in", async () => {
    await rolledBack(database.service.pool, async (client) => {
      await client.query("savepoint outer_one");
      await enter(client, mine, database.ticket(mine));
      expect((await refused(client, "select 1 / 0")).code).toBe("22012");
      expect(await entered(client)).toBe(mine);

      await client.query("rollback to outer_one");
      await client.query("set local row_security = on; set local role holdfast_tenant");
      expect((await refused(client, "select app_private.require()")).code).toBe("RL101");
    });
  });

  test("is good for the backend that it names", async () => {
    await rolledBack(database.service.pool, async (client) => {
      const { rows } = await client.query("select pg_backend_pid() as pid");
      await enter(client, mine, mintTicket(TEST_TICKET_KEY, mine, rows[0].pid));
      expect(await entered(client)).toBe(mine);
    });
  });

  test("may be signed by any key that is not retired", async () => {
    const secret = randomBytes(32);
    const [ipad, opad] = [0x36, 0x5c].map((pad) =>
      Buffer.concat([secret, Buffer.alloc(32)]).map((byte) => byte ^ pad),
    );
    const ticket = mintTicket({ kid: 7, secret }, mine, 0);
    await database.superuser.query(
      "insert into app_private.ticket_keys (kid, ipad, opad, binding) values (7, $1, $2, 'none')",
      [ipad, opad],
    );
    await rolledBack(database.service.pool, (client) => enter(client, mine, ticket));
    await rolledBack(database.service.pool, (client) => enter(client, mine, database.ticket(mine)));

    await database.superuser.query("update app_private.ticket_keys set not_after = now() where kid = 7");
    const attempt = rolledBack(database.service.pool, (client) => enter(client, mine, ticket));
    await expect(attempt).rejects.toMatchObject({ code: "RL101" });
  });
});

describe("a ticket that opens nothing", () => {
  const valid = () => database.ticket(mine);
  const cases: [string, () => string | null][] = [
    ["of another tenant", () => database.ticket(foreign)],
    ["of nobody", () => database.ticket(randomUUID())],
    ["with the version changed", () => altered(valid(), 0, () => "v2")],
    ["with the key number changed", () => altered(valid(), 1, () => "2")],
    ["with the key number padded", () => altered(valid(), 1, () => "01")],
    ["with the tenant changed", () => altered(database.ticket(foreign), 2, () => mine)],
    ["with the backend changed", () => altered(mintTicket(TEST_TICKET_KEY, mine, 1), 3, () => "0")],
    ["with the expiry changed", () => altered(valid(), 4, (expiry) => String(Number(expiry) + 1))],
    ["with the signature changed", () => altered(valid(), 5, flipped)],
    ["with the signature of another key", () => signed({ tenant: mine }, randomBytes(32))],
    ["of a key that is not there", () => signed({ tenant: mine, kid: "999999999" })],
    ["that has expired", () => signed({ tenant: mine, expiry: String(Math.floor(Date.now() / 1000) - 1) })],
    ["that expired in 1970", () => signed({ tenant: mine, expiry: "0" })],
    ["of another backend", () => mintTicket(TEST_TICKET_KEY, mine, 999_999)],
    ["of a backend written otherwise", () => signed({ tenant: mine, pid: "00" })],
    ["with an expiry out of range", () => signed({ tenant: mine, expiry: "9".repeat(40) })],
    ["in capitals", () => valid().toUpperCase()],
    ["with a capital tenant", () => signed({ tenant: mine.toUpperCase() })],
    ["with a part too few", () => valid().split(".").slice(0, 5).join(".")],
    ["with a part too many", () => `${valid()}.0`],
    ["with a line after it", () => `${valid()}\n`],
    ["with a line before it", () => `x\n${valid()}`],
    ["that is empty", () => ""],
    ["that is a quote", () => "'; select 1 --"],
    ["that is long", () => valid() + "0".repeat(100_000)],
    ["that is null", () => null],
  ];

  test.each(cases)("%s", async (_what, ticketOf) => {
    const ticket = ticketOf();
    await rolledBack(database.service.pool, async (client) => {
      const error = await refused(client, "select app.enter($1, $2)", [mine, ticket]);
      expect(error).toMatchObject({ code: "RL101", message: "rls_enforcement_failed" });
      expectNoSecret(error, [mine, foreign, ...secretParts(ticket)]);

      await client.query("set local row_security = on; set local role holdfast_tenant");
      expect((await refused(client, "select from tenant.tenants")).code).toBe("RL101");
    });
  });

  test.each<[string, string, () => string]>([
    [
      "genuine and late",
      "the ticket has expired: is the clock of the caller right?",
      () => signed({ tenant: mine, expiry: String(Math.floor(Date.now() / 1000) - 1) }),
    ],
    [
      "forged and late",
      "the ticket is not valid",
      () => signed({ tenant: mine, expiry: "0" }, randomBytes(32)),
    ],
    ["forged", "the ticket is not valid", () => signed({ tenant: mine }, randomBytes(32))],
    [
      "of another backend and late",
      "the ticket is not valid",
      () => signed({ tenant: mine, pid: "999999", expiry: "0" }),
    ],
  ])("one that is %s is refused because %s", async (_what, reason, ticketOf) => {
    await rolledBack(database.service.pool, async (client) => {
      const ticket = ticketOf();
      const error = await refused(client, "select app.enter($1, $2)", [mine, ticket]);
      expect(error).toMatchObject({ code: "RL101", detail: JSON.stringify({ reason }).replace(":", ": ") });
      expectNoSecret(error, [mine, ...secretParts(ticket)]);
    });
  });

  test("no tenant at all, with a valid ticket", async () => {
    await rolledBack(database.service.pool, async (client) => {
      const error = await refused(client, "select app.enter(null, $1)", [valid()]);
      expect(error.code).toBe("RL101");
      expectNoSecret(error, [mine, ...secretParts(valid())]);
    });
  });

  test("a tenant that is suspended, in the middle of its day", async () => {
    const { tenantId } = await database.addTenant();
    await rolledBack(database.service.pool, (client) => enter(client, tenantId, database.ticket(tenantId)));

    await database.superuser.query("update app.tenants set status = 'SUSPENDED' where tenant_id = $1", [
      tenantId,
    ]);
    await rolledBack(database.service.pool, async (client) => {
      for (const text of ["select app.enter($1, $2)", "select * from app.budget_status($1, $2)"]) {
        const error = await refused(client, text, [tenantId, database.ticket(tenantId)]);
        expect(error).toMatchObject({ code: "RL101", detail: '{"reason": "the tenant is not active"}' });
      }
    });
  });

  test("a second tenant in one transaction; the first stays", async () => {
    await rolledBack(database.service.pool, async (client) => {
      await enter(client, mine, database.ticket(mine));
      const error = await refused(client, "select app.enter($1, $2)", [foreign, database.ticket(foreign)]);
      expect(error).toMatchObject({ code: "RL101", detail: '{"reason": "one transaction, one tenant"}' });
      expectNoSecret(error, [mine, foreign]);
      expect(await entered(client)).toBe(mine);
    });
  });
});

describe("what a session sets by itself", () => {
  const others: [string, (own: string) => string][] = [
    ["the other tenant under the seal of this one", (own) => foreign + own.slice(36)],
    [
      "the other tenant under a seal of its own making",
      () => `${foreign}.${randomBytes(32).toString("hex")}`,
    ],
    ["the other tenant without a seal", () => foreign],
    ["nothing", () => ""],
    ["101 characters", () => "0".repeat(101)],
  ];

  test.each(others)("set to %s, in the same statement, shows no row of another", async (_what, spoofed) => {
    await rolledBack(database.service.pool, async (client) => {
      await enter(client, mine, database.ticket(mine));
      const own = (await client.query("select current_setting('app.tenant') as value")).rows[0].value;
      await client.query("set local role holdfast_tenant");
      const error = await refused(
        client,
        `with spoof as materialized (select set_config('app.tenant', $1, true) as value)
         select t.tenant_id from spoof cross join lateral (
           select t.tenant_id from tenant.tenants as t where spoof.value is not null) as t`,
        [spoofed(own)],
      );
      expect(error.code).toBe("RL101");
    });
  });

  test("a seal is worth nothing in the next transaction, nor in another backend", async () => {
    let seal = "";
    await rolledBack(database.service.pool, async (client) => {
      await enter(client, mine, database.ticket(mine));
      seal = (await client.query("select current_setting('app.tenant') as value")).rows[0].value;
      await rolledBack(database.service.pool, (other) => replay(other, seal));
    });
    await rolledBack(database.service.pool, (client) => replay(client, seal));
  });

  async function replay(client: pg.ClientBase, seal: string): Promise<void> {
    await client.query("select set_config('app.tenant', $1, true)", [seal]);
    await client.query("set local row_security = on; set local role holdfast_tenant");
    expect((await refused(client, "select from tenant.tenants")).code).toBe("RL101");
  }

  test("a seal is made of the secret, the tenant, the backend and the transaction", async () => {
    const { rows } = await database.superuser.query(
      `select app_private.seal(s.secret, $1) = encode(sha256(s.secret || convert_to($1, 'UTF8')
                || int4send(pg_backend_pid()) || timestamptz_send(transaction_timestamp()) || s.secret), 'hex') as same,
              length(s.secret) as bytes
       from app_private.seal_secret as s`,
      [mine],
    );
    expect(rows).toEqual([{ same: true, bytes: 32 }]);
  });

  test("a value left in the session shuts the connection to nobody", async () => {
    const client = await database.service.pool.connect();
    try {
      await client.query("begin");
      await enter(client, mine, database.ticket(mine));
      await client.query("set local role holdfast_tenant");
      await client.query("select set_config('app.tenant', 'left behind', false)");
      await client.query("commit");

      await client.query("begin");
      await enter(client, foreign, database.ticket(foreign));
      expect(await entered(client)).toBe(foreign);
      await client.query("rollback");
    } finally {
      client.release(true);
    }
  });

  test.each([
    "set role holdfast_owner",
    "set role holdfast_system",
    "set role holdfast_admin",
    "set session authorization holdfast_worker",
    "reset role; select from app.tenants",
    "select from app_private.ticket_keys",
    "select from app_private.seal_secret",
    "select app_private.seal('x', 'x')",
    "select app_private.ticket_tenant('x')",
    "select app.schedule_tick()",
    "select * from ops.tenants",
    "insert into app.events (tenant_id, type) values (gen_random_uuid(), 'a.b')",
    "update app.tenants set name = 'x'",
    "delete from app.findings",
    "truncate app.findings",
    "alter table app.findings disable row level security",
    "create policy mine on app.findings using (true)",
    "create table app.mine (id integer)",
    "create temp table findings (id integer)",
    "create function app.mine() returns integer language sql as 'select 1'",
    "set local session_replication_role = replica",
  ])("the tenant role is refused: %s", async (text) => {
    await rolledBack(database.service.pool, async (client) => {
      await enter(client, mine, database.ticket(mine));
      await client.query("set local role holdfast_tenant");
      expect((await refused(client, text)).code).toBe("42501");
    });
  });
});

/** What of a ticket nobody else may read: all that is long enough to be told from chance. */
function secretParts(ticket: string | null): string[] {
  return (ticket ?? "").split(".").filter((part) => part.length >= 8);
}

function expectNoSecret(error: pg.DatabaseError, secrets: string[]): void {
  const said = JSON.stringify({ ...error, message: error.message }).toLowerCase();
  for (const secret of secrets) expect(said).not.toContain(secret.toLowerCase());
}
