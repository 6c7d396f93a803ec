// From an empty server to a migrated database: once, twice, and two at once; by a superuser and by one who is none.
import { randomBytes, randomUUID } from "node:crypto";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { z } from "zod";
import { call } from "../src/db.ts";
import { AppError } from "../src/errors.ts";
import { createLog } from "../src/log.ts";
import {
  asOwner,
  bootstrap,
  migrateDatabase,
  newestMigration,
  projectFile,
  registerTicketKey,
  withClient,
} from "../src/migrate.ts";
import type { TicketKey } from "../src/tickets.ts";
import { inDatabase, TEST_PASSWORD, TEST_TICKET_KEY } from "./support/constants.ts";
import { testDatabase } from "./support/database.ts";
import { rolledBack } from "./support/rolled_back.ts";

const server = inject("server");
const database = testDatabase();
const log = createLog({ level: "error" });
const databases: string[] = [];

function newName(): string {
  const name = `holdfast_${randomUUID().slice(0, 8)}`;
  databases.push(name);
  return name;
}

function url(name: string, login = "holdfast_admin"): string {
  return `postgresql://${login}:${TEST_PASSWORD}@${server.host}:${server.port}/${name}`;
}

async function rowsOf(connectionString: string, text: string, values: unknown[] = []) {
  return withClient({ connectionString }, async (client) => (await client.query(text, values)).rows);
}

afterAll(async () => {
  await withClient(server.administrator, async (client) => {
    for (const name of databases) await client.query(`drop database if exists "${name}" with (force)`);
  });
});

describe("bootstrap", () => {
  it("makes an empty database that only our roles may enter, and does nothing the second time", async () => {
    const name = newName();
    for (let round = 0; round < 2; round += 1) {
      await bootstrap(server.administrator, { database: name, passwords: {} });
      expect(
        await rowsOf(
          url(name),
          `select pg_get_userbyid(datdba) as owner, has_database_privilege('holdfast_service', oid, 'connect') as ours,
             exists (select from aclexplode(datacl) as x where x.grantee = 0) as anyone
           from pg_database where datname = $1`,
          [name],
        ),
      ).toEqual([{ owner: "holdfast_owner", ours: true, anyone: false }]);
    }
  });

  it("may be run by many at the same time", async () => {
    const name = newName();
    await Promise.all(
      Array.from({ length: 4 }, () => bootstrap(server.administrator, { database: name, passwords: {} })),
    );
    expect(await rowsOf(url(name), "select 1 as here")).toEqual([{ here: 1 }]);
  });

  it("run by a superuser, takes from everybody what only a superuser can, in that database", async () => {
    const name = newName();
    await bootstrap(server.administrator, { database: name, passwords: {} });
    await withClient(inDatabase(server.administrator, name), async (client) => {
      const text =
        "select has_function_privilege('holdfast_service', 'pg_cancel_backend(integer)', 'execute') as may";
      expect((await client.query(text)).rows).toEqual([{ may: false }]);
      await client.query("grant execute on function pg_cancel_backend(integer) to public");
      await bootstrap(server.administrator, { database: name, passwords: {} });
      expect((await client.query(text)).rows).toEqual([{ may: false }]);
    });
  });

  it("takes names and passwords with any sign in them", async () => {
    const name = `holdfast "q" 'x' ${randomUUID().slice(0, 4)}`;
    const login = `login "q" ${randomUUID().slice(0, 4)}`;
    const password = `it's "fine" \\ $1 :x`;
    const quoted = pg.escapeIdentifier(login);
    await withClient(server.administrator, (client) => client.query(`create role ${quoted} login`));
    try {
      await bootstrap(server.administrator, { database: name, passwords: { [login]: password } });
      const { host, port } = server;
      const refused = withClient({ host, port, user: login, password, database: name }, async () => "in");
      // The password is right; it is the database that does not know the login.
      await expect(refused).rejects.toThrow(/permission denied for database/);
    } finally {
      await withClient(server.administrator, async (client) => {
        await client.query(`drop database if exists ${pg.escapeIdentifier(name)}`);
        await client.query(`drop role ${quoted}`);
      });
    }
  });
});

describe("migrateDatabase", () => {
  let empty: string;

  beforeAll(async () => {
    empty = newName();
    await bootstrap(server.administrator, { database: empty, passwords: {} });
  });

  it("brings an empty database to the newest migration, also when two begin at once, and again", async () => {
    await Promise.all([
      migrateDatabase(url(empty), TEST_TICKET_KEY, log),
      migrateDatabase(url(empty), TEST_TICKET_KEY, log),
    ]);
    const state = () =>
      rowsOf(
        asOwner(url(empty)),
        `select (select count(*)::int from graphile_migrate.migrations) as migrations,
                (select count(*)::int from app_private.ticket_keys) as keys,
                (select count(*)::int from pg_class where relispartition) as partitions`,
      );
    const [first] = await state();
    expect(first).toMatchObject({ keys: 1 });
    expect(first.migrations).toBeGreaterThan(0);
    expect(first.partitions).toBeGreaterThan(0);
    await migrateDatabase(url(empty), TEST_TICKET_KEY, log);
    expect(await state()).toEqual([first]);
  });

  it("shuts a database that a DBA made by hand to everybody but our roles", async () => {
    const name = newName();
    await withClient(server.administrator, (client) =>
      client.query(`create database "${name}" owner holdfast_owner`),
    );
    await migrateDatabase(url(name), TEST_TICKET_KEY, log);
    const rights = `select coalesce(nullif(x.grantee, 0)::regrole::text, 'public') as login,
        string_agg(x.privilege_type, ' ' order by x.privilege_type) as rights
      from pg_database as d cross join aclexplode(d.datacl) as x where d.datname = current_database()
      group by 1 order by 1`;
    expect(await rowsOf(url(name, "holdfast_service"), rights)).toEqual([
      { login: "holdfast_admin", rights: "CONNECT" },
      { login: "holdfast_metrics", rights: "CONNECT" },
      { login: "holdfast_ops", rights: "CONNECT" },
      { login: "holdfast_owner", rights: "CONNECT CREATE TEMPORARY" },
      { login: "holdfast_service", rights: "CONNECT" },
      { login: "holdfast_worker", rights: "CONNECT" },
    ]);
    expect(await rowsOf(url(name, "holdfast_ops"), "select * from app_private.lint")).toEqual([]);
  });

  it("is refused with another key under the number of the one that is known", async () => {
    const other = { ...TEST_TICKET_KEY, secret: randomBytes(32) };
    await expect(migrateDatabase(url(empty), other, log)).rejects.toMatchObject({ code: "config_invalid" });
    await migrateDatabase(url(empty), TEST_TICKET_KEY, log);
  });

  it("lists the newest migration under the name that newestMigration gives", async () => {
    const [newest] = await rowsOf(
      asOwner(url(empty)),
      "select max(filename) as file from graphile_migrate.migrations",
    );
    expect(newestMigration()).toBe(newest.file);
    expect(newestMigration()).toMatch(/^\d{6}\.sql$/);
  });

  it("gives the worker its part of the queue, and nobody else", async () => {
    const jobs = "select count(*)::int as n from graphile_worker.jobs";
    await expect(rowsOf(url(empty, "holdfast_service"), jobs)).rejects.toThrow(/permission denied/);
    const queue = "select count(*)::int as n from graphile_worker._private_jobs";
    const asQueue = `${url(empty, "holdfast_worker")}?options=-c%20row_security%3Don`;
    expect(await rowsOf(asQueue, queue)).toEqual([{ n: 0 }]);
    await expect(rowsOf(asQueue, "drop table graphile_worker._private_jobs")).rejects.toThrow(
      /must be owner/,
    );
  });

  it("leaves every object to holdfast_owner or holdfast_system", async () => {
    expect(
      await rowsOf(
        url(empty),
        `select c.oid::regclass::text as object from pg_class as c
         where c.relnamespace::regnamespace::text in ('app', 'app_private', 'ops', 'graphile_worker', 'graphile_migrate')
           and pg_get_userbyid(c.relowner) not in ('holdfast_owner', 'holdfast_system')`,
      ),
    ).toEqual([]);
  });

  it("is refused to a login that does not own it", async () => {
    await expect(migrateDatabase(url(empty, "holdfast_service"), TEST_TICKET_KEY, log)).rejects.toThrow(
      /permission denied to set role/,
    );
  });

  it("leaves no connection behind", async () => {
    const open = () =>
      withClient(server.administrator, async (client) => {
        const { rows } = await client.query(
          "select count(*)::int as n from pg_stat_activity where datname = $1",
          [empty],
        );
        return rows[0].n;
      });
    await migrateDatabase(url(empty), TEST_TICKET_KEY, log);
    await expect.poll(open, { timeout: 2_000, interval: 20 }).toBe(0);
  });
});

describe("registerTicketKey", () => {
  const newKey = (kid: number): TicketKey => ({ kid, secret: randomBytes(32) });

  async function register(key: TicketKey): Promise<void> {
    await withClient({ connectionString: asOwner(database.url("holdfast_admin")) }, (client) =>
      registerTicketKey(client, key),
    );
  }

  /** By a call of the shell's own: a new key wants tickets that name their backend. */
  async function enters(ticketKey: TicketKey, tenantId: string): Promise<boolean> {
    const text = "select b.limit_nanousd from app.budget_status($1, $2) as b";
    return call({ ...database.service, ticketKey }, tenantId, text, [], z.unknown()).then(
      () => true,
      (error: unknown) => {
        if (error instanceof AppError && error.code === "rls_enforcement_failed") return false;
        throw error;
      },
    );
  }

  it("lets a new key in beside the old one, under a number of its own", async () => {
    const { tenantId } = await database.addTenant();
    const [second, stranger] = [newKey(2), newKey(3)];
    expect(await enters(second, tenantId)).toBe(false);
    await register(second);
    await register(second);
    expect(await enters(second, tenantId)).toBe(true);
    expect(await enters(TEST_TICKET_KEY, tenantId)).toBe(true);
    expect(await enters(stranger, tenantId)).toBe(false);
    expect(await enters({ ...second, kid: 1 }, tenantId)).toBe(false);
  });

  it("refuses another key under a number that is known, and leaves the known one in use", async () => {
    const { tenantId } = await database.addTenant();
    const [first, other] = [newKey(4), newKey(4)];
    await register(first);
    await expect(register(other)).rejects.toMatchObject({
      code: "config_invalid",
      message: "TICKET_KEY differs from the key that the database knows as number 4",
      hint: expect.stringContaining("TICKET_KEY_ID"),
    });
    expect(await enters(first, tenantId)).toBe(true);
    expect(await enters(other, tenantId)).toBe(false);
  });

  it("takes the binding of the newest key in use, so that the next key serves behind the same pooler", async () => {
    const bindingOfNew = async (kid: number) => {
      await register(newKey(kid));
      const text = "select binding from ops.ticket_keys where kid = $1";
      return (await database.ops.query(text, [kid])).rows[0].binding;
    };
    const change = (kid: number, values: string) =>
      database.superuser.query(`update app_private.ticket_keys set ${values} where kid = ${kid}`);
    expect(await bindingOfNew(11)).toBe("none");
    await change(11, "binding = 'backend'");
    expect(await bindingOfNew(12)).toBe("backend");
    // One that is to end is no model any more.
    await change(12, "binding = 'none', not_after = now() + interval '1 hour'");
    expect(await bindingOfNew(13)).toBe("backend");
  });

  it("lets the first key of all bind its tickets to their backend", async () => {
    await rolledBack(database.superuser, async (client) => {
      await client.query("delete from app_private.ticket_keys");
      await registerTicketKey(client, newKey(1));
      const { rows } = await client.query("select kid, binding from ops.ticket_keys");
      expect(rows).toEqual([{ kid: 1, binding: "backend" }]);
    });
  });

  it("refuses a key that has ended, and takes one that is yet to end", async () => {
    const key = newKey(21);
    await register(key);
    const retire = (after: string) =>
      database.ops.query("select * from ops.ticket_key_retire(21, reason => 'test', after => $1::interval)", [
        after,
      ]);
    await retire("1 hour");
    await register(key);
    await retire("0");
    await expect(register(key)).rejects.toMatchObject({
      code: "config_invalid",
      message: "key number 21 was retired; take a new TICKET_KEY and TICKET_KEY_ID",
      detail: { ticket_key_id: 21 },
    });
  });
});

describe("asOwner and projectFile", () => {
  it("name the role in the URL, and files by their path", () => {
    const address = new URL(asOwner("postgresql://me:secret@db:5433/x?sslmode=require"));
    expect(address.searchParams.get("options")).toBe("-c role=holdfast_owner");
    expect(address.searchParams.get("sslmode")).toBe("require");
    expect(address.password).toBe("secret");
    expect(projectFile("package.json")).toMatch(/^\/.*\/package\.json$/);
  });
});

describe("withClient", () => {
  it("gives what the work gives, throws what it throws, and ends its connection in both cases", async () => {
    const mine = `test ${randomUUID()}`;
    const config = { ...server.administrator, application_name: mine };
    expect(await withClient(config, async () => 42)).toBe(42);
    await expect(withClient(config, (client) => client.query("select 1/0"))).rejects.toThrow(
      "division by zero",
    );
    const left = () =>
      withClient(server.administrator, async (client) => {
        const text = "select count(*)::int as n from pg_stat_activity where application_name = $1";
        return (await client.query(text, [mine])).rows[0].n;
      });
    await expect.poll(left, { timeout: 2_000, interval: 20 }).toBe(0);
  });
});
