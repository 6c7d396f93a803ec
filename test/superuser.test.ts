// sql/superuser.sql: what it shuts is shut for SQL of a tenant's own, and all of ours works behind it; and what there is
// without it, made by an administrator who is no superuser.
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type pg from "pg";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { bootstrap, migrateDatabase, projectFile, withClient } from "../src/migrate.ts";
import { startPostgres } from "../src/postgres.ts";
import { mintTicket } from "../src/tickets.ts";
import { startWorker } from "../src/worker.ts";
import { inDatabase, TEST_PASSWORD, TEST_TICKET_KEY } from "./support/constants.ts";
import { costsOf, usage } from "./support/costs.ts";
import { testDatabase } from "./support/database.ts";
import { asPeople, type Finding, SUPERUSER_CHECKS, underRoleLock } from "./support/doctor.ts";
import { journal, sql, tasksOf, until } from "./support/job_scene.ts";
import { rolledBack } from "./support/rolled_back.ts";

const server = inject("server");
const database = testDatabase();
const suffix = randomBytes(4).toString("hex");
const superuserSql = readFileSync(projectFile("sql/superuser.sql"), "utf8");
const { log } = journal();

type Right = { name: string; call: string; acl: string };

/** The functions of PostgreSQL that everybody may call, or that somebody else was given, and how each is called. */
async function publicFunctions(client: pg.ClientBase | pg.Pool): Promise<Map<string, Right>> {
  const { rows } = await client.query<Right>(
    `select p.oid::regprocedure::text as name, p.proacl::text as acl,
            format('select * from %s(%s)', p.oid::regproc,
              (select string_agg('(select null::' || format_type(a.type, null) || ')', ', ' order by a.place)
               from unnest(p.proargtypes::oid[]) with ordinality as a (type, place))) as call
     from pg_proc as p
     where p.pronamespace = 'pg_catalog'::regnamespace and has_function_privilege('public', p.oid, 'execute')`,
  );
  return new Map(rows.map((row) => [row.name, row]));
}

/** What all functions and languages of PostgreSQL are open to. */
async function rights(client: pg.ClientBase): Promise<string[]> {
  const { rows } = await client.query<{ line: string }>(
    `select p.oid::regprocedure || ' ' || (select string_agg(x::text, ' ' order by x::text) from unnest(p.proacl) as x) as line
     from pg_proc as p where p.pronamespace = 'pg_catalog'::regnamespace
     union all
     select l.lanname || ' ' || (select string_agg(x::text, ' ' order by x::text) from unnest(l.lanacl) as x)
     from pg_language as l order by 1`,
  );
  return rows.map((row) => row.line);
}

beforeAll(async () => {
  await underRoleLock(server.administrator, () => database.superuser.query(superuserSql));
});

describe("a door that superuser.sql shuts", () => {
  const shut: Right[] = [];
  let tenantId: string;

  beforeAll(async () => {
    ({ tenantId } = await database.addTenant());
    // The administrator's own database is as PostgreSQL makes one.
    const before = await withClient(server.administrator, publicFunctions);
    const after = await publicFunctions(database.superuser);
    shut.push(...[...before.values()].filter(({ name }) => !after.has(name)));
  });

  /** How a statement ended for SQL of a tenant's own, in its transaction. */
  async function attempt(text: string, goBack: boolean): Promise<string> {
    return rolledBack(database.service.pool, async (client) => {
      await client.query("select app.enter($1, $2)", [tenantId, database.ticket(tenantId)]);
      await client.query("set local role holdfast_tenant");
      if (goBack) await client.query("reset role");
      return client.query(text).then(
        () => "done",
        (error: pg.DatabaseError) => String(error.code),
      );
    });
  }

  test("there are many, and all that were meant", () => {
    const names = shut.map(({ name }) => name.replace(/\(.*/, ""));
    expect(shut.length).toBeGreaterThan(150);
    for (const name of [
      ...["pg_cancel_backend", "pg_terminate_backend", "pg_stat_get_activity", "pg_lock_status"],
      ...["pg_stat_get_backend_activity", "pg_stat_get_tuples_inserted", "pg_current_wal_lsn"],
      ...[
        "pg_relation_size",
        "pg_advisory_lock",
        "pg_try_advisory_xact_lock_shared",
        "pg_advisory_unlock_all",
      ],
      ...["lo_create", "lo_from_bytea", "lo_unlink", "loread", "lowrite", "pg_logical_emit_message"],
      "pg_export_snapshot",
    ]) {
      expect(names, name).toContain(name);
    }
    // Names that only look alike.
    for (const name of ["lower", "log", "pg_stat_file", "pg_notify", "pg_sleep", "localtimestamp"]) {
      expect(names).not.toContain(name);
    }
  });

  test.each([
    ["holdfast_tenant", false],
    ["holdfast_service, after RESET ROLE", true],
  ])("is shut to %s", async (_who, goBack) => {
    for (const { name, call } of shut) expect(`${name} ${await attempt(call, goBack)}`).toBe(`${name} 42501`);
    for (const text of [
      "do $$ begin end $$",
      "select * from pg_stat_activity",
      "select * from pg_locks",
      "select * from pg_stat_user_tables",
      "select * from pg_stat_database",
      "create temporary table things (id integer)",
      "create table public.things (id integer)",
      "set local log_parameter_max_length = -1",
      "set local temp_file_limit = -1",
      "alter role holdfast_service reset temp_file_limit",
    ]) {
      expect(`${text}: ${await attempt(text, goBack)}`).toBe(`${text}: 42501`);
    }
  });

  // Without the event trigger each of them would wait for the reader, and end with 55P03.
  test.each([
    ["holdfast_tenant", false],
    ["holdfast_service, after RESET ROLE", true],
  ])("%s is refused before it asks for a lock", async (_who, goBack) => {
    await rolledBack(database.superuser, async (reader) => {
      await reader.query("select from app.tenants limit 0; select from pg_catalog.pg_database limit 0");
      for (const text of [
        "create rule r as on insert to app.tenants do instead nothing",
        "create rule r as on insert to pg_catalog.pg_database do instead nothing",
        "drop rule r on app.tenants",
        "alter index app.tenants_pkey depends on extension plpgsql",
        "alter index pg_catalog.pg_database_oid_index depends on extension plpgsql",
        "alter policy tenant_isolation on app.tenants rename to p",
        "alter table app.tenants owner to holdfast_service",
        "comment on table app.tenants is 'mine'",
        "drop table app.tenants",
        "drop owned by holdfast_tenant",
        "grant select on app.tenants to holdfast_service",
      ]) {
        expect(`${text}: ${await attempt(`set local lock_timeout = '300ms'; ${text}`, goBack)}`).toBe(
          `${text}: 42501`,
        );
      }
    });
  });

  test("a session of tenants has so much room on the disk, and no more", async () => {
    const { rows } = await database.service.pool.query("show temp_file_limit");
    expect(rows).toEqual([{ temp_file_limit: "1GB" }]);
  });

  test("was open: each of them answers who may", async () => {
    await rolledBack(database.superuser, async (client) => {
      for (const { name, call } of shut) {
        await client.query("savepoint before");
        const code = await client.query(call).then(
          () => "done",
          (error: pg.DatabaseError) => String(error.code),
        );
        await client.query("rollback to before");
        expect(code, name).not.toBe("42501");
      }
    });
    expect(
      await attempt(
        "select pg_sleep(0), pg_notify('x', ''), query_to_xml('select 1', true, true, '')",
        false,
      ),
    ).toBe("done");
  });
});

describe("who needs them keeps them", () => {
  test("a monitor sees what all sessions run, through every view of the statistics", async () => {
    await rolledBack(database.superuser, async (client) => {
      await client.query(`create role monitor_${suffix} in role pg_monitor, pg_signal_backend`);
      const { rows: views } = await client.query<{ name: string }>(
        `select oid::regclass::text as name from pg_class where relnamespace = 'pg_catalog'::regnamespace
         and relkind = 'v' and relname ~ '^(pg_stat_|pg_statio_|pg_locks|pg_replication_slots)' and relname !~ '_ext'`,
      );
      expect(views.length).toBeGreaterThan(40);
      await client.query(`set local role monitor_${suffix}`);
      for (const { name } of views) await client.query(`select * from ${name}`);
      const { rows } = await client.query("select query from pg_stat_activity where pid = pg_backend_pid()");
      expect(rows[0].query).toMatch(/pg_stat_activity/);
      await client.query("select pg_cancel_backend(null), pg_database_size(current_database())");
    });
  });

  test("people look at locks, sessions and sizes", async () => {
    for (const text of [
      "select pid, state from pg_stat_activity",
      "select * from pg_locks",
      "select relname, n_live_tup from pg_stat_user_tables",
      "select pg_size_pretty(pg_total_relation_size('app.findings'))",
    ]) {
      expect((await database.ops.query(text)).rowCount, text).toBeGreaterThan(0);
    }
  });

  test("the backup reads every tenant's rows and writes none", async () => {
    await database.addTenant();
    const count = "select count(*)::int as n from app.tenants";
    const all = (await database.superuser.query(count)).rows;
    await rolledBack(database.superuser, async (client) => {
      await client.query("set local role holdfast_backup");
      expect((await client.query(count)).rows).toEqual(all);
      await client.query("select pg_export_snapshot()");
      await expect(client.query("delete from app.events")).rejects.toMatchObject({ code: "42501" });
    });
  });

  test("the replicator has no right on a table", async () => {
    const { rows } = await database.superuser.query(
      `select c.oid::regclass::text as name from pg_class as c
       where c.relnamespace::regnamespace::text in ('app', 'app_private', 'ops', 'tenant', 'graphile_worker')
         and c.relkind in ('r', 'p', 'v') and has_table_privilege('holdfast_replicator', c.oid, 'select, insert, update, delete')`,
    );
    expect(rows).toEqual([]);
  });
});

describe("all of ours works behind it", () => {
  test("contract calls, imports with their advisory lock, maintenance, tick and queue", {
    timeout: 60_000,
  }, async () => {
    const { tenantId } = await database.addTenant({ tier: "HIGH_VALUE" });
    await costsOf(database).load(tenantId, [usage("2026-04-02", 1), usage("2026-04-03", 2)]);
    await database.worker.pool.query("select * from app.maintain()");

    const words = {
      narrated_by: "template",
      fallback_reason: "no_findings",
      provider: "test",
      model: "test",
      items: [],
    };
    const worker = await startWorker({
      workerUrl: database.url("holdfast_worker"),
      db: database.worker,
      work: database.service,
      tasks: tasksOf({ detection: async () => ({}), analysis: async () => words }),
      log,
      concurrency: 2,
      onFatal: (error) => expect.fail(String(error)),
    });
    try {
      await until(
        async () => (await sql(database, "select from app.job_runs where state = 'COMPLETED'")).length > 0,
      );
    } finally {
      await worker.stop();
    }
  });

  // The clone's template was migrated after it, for `bootstrap` runs it.
  test("migrations, once more", { timeout: 60_000 }, async () => {
    await migrateDatabase(database.url("holdfast_admin"), TEST_TICKET_KEY, log, { withCurrent: true });
    expect(await wrongIn(inDatabase(server.administrator, database.name))).toEqual({});
  });

  test("a second run changes nothing", async () => {
    const catalogs = [
      "pg_proc",
      "pg_language",
      "pg_database",
      "pg_authid",
      "pg_db_role_setting",
      "pg_namespace",
    ];
    const written = [...catalogs, "pg_event_trigger"]
      .map((name) => `select count(*)::int as n from ${name} where xmin::text::bigint = txid_current()`)
      .join(" union all ");
    await rolledBack(database.superuser, async (client) => {
      await client.query(superuserSql);
      expect((await client.query(written)).rows.map((row) => row.n)).toEqual([0, 0, 0, 0, 0, 0, 0]);
      await client.query("grant execute on function pg_cancel_backend to public");
      await client.query(superuserSql);
      expect((await client.query(written)).rows[0].n).toBe(1);
    });
  });
});

/** What is not ok, with its state, but the version of the server. */
async function wrongIn(config: pg.ClientConfig, before = ""): Promise<Record<string, string>> {
  return withClient(config, async (client) => {
    await client.query("begin");
    if (before !== "") await client.query(before);
    return states((await asPeople(client)).filter((row) => row.checked !== "server_version"));
  });
}

const states = (rows: Finding[]) =>
  Object.fromEntries(rows.filter((row) => row.state !== "ok").map((row) => [row.checked, row.state]));

describe("an administrator who may create roles and databases, and is no superuser", () => {
  const dba = `dba_${suffix}`;
  const name = `holdfast_${suffix}_dba`;
  const logins = ["holdfast_admin", "holdfast_service", "holdfast_ops"];
  let own: {
    administrator: pg.ClientConfig;
    host: string;
    port: number;
    end: () => Promise<void>;
    log?: string;
  };

  beforeAll(async () => {
    const version = await withClient(server.administrator, async (client) =>
      Number((await client.query("show server_version_num")).rows[0].server_version_num),
    );
    // From 16 on, who did not make a role may not administer it: a cluster without our roles is needed.
    own = version < 160_000 ? { ...server, end: async () => {} } : await freshServer();
    const role = `create role ${dba} login createrole createdb password '${TEST_PASSWORD}'`;
    await withClient(own.administrator, (client) => client.query(role));
  }, 60_000);

  afterAll(async () => {
    await withClient(own.administrator, async (client) => {
      await client.query(`drop database if exists ${name} with (force)`);
      await client.query(`drop owned by ${dba} cascade; drop role ${dba}`).catch(() => {}); // its cluster goes with it
    });
    await own.end();
  });

  async function freshServer() {
    const directory = await mkdtemp(join(tmpdir(), "holdfast-test-"));
    const settings = { fsync: "off", log_statement: "all", log_min_error_statement: "error" };
    const { superuser, host, port, stop } = await startPostgres({ directory, port: 0, settings });
    const end = async () => {
      await stop();
      await rm(directory, { recursive: true });
    };
    return { administrator: superuser, host, port, end, log: join(directory, "postgres.log") };
  }

  const url = (login: string) => `postgresql://${login}:${TEST_PASSWORD}@${own.host}:${own.port}/${name}`;
  const inside = () => inDatabase(own.administrator, name);
  /** Of the cluster's part nothing, as it would be where no superuser has been. */
  const withoutHelp = `alter role holdfast_backup rename to gone_1; alter role holdfast_replicator rename to gone_2;
    alter role holdfast_service reset log_parameter_max_length; alter role holdfast_worker reset log_parameter_max_length;
    alter role holdfast_ops reset log_parameter_max_length; alter role holdfast_service reset temp_file_limit`;

  test("makes the roles and a database that is migrated and works", { timeout: 60_000 }, async () => {
    const passwords = Object.fromEntries(logins.map((login) => [login, TEST_PASSWORD]));
    const administrator = {
      connectionString: `postgresql://${dba}:${TEST_PASSWORD}@${own.host}:${own.port}/postgres`,
    };
    await bootstrap(administrator, { database: name, passwords });
    await bootstrap(administrator, { database: name, passwords });
    await migrateDatabase(url("holdfast_admin"), TEST_TICKET_KEY, log, { withCurrent: true });
    const { rows } = await withClient({ connectionString: url("holdfast_ops") }, (client) =>
      client.query("select tenant from ops.tenant_add(name => 'Acme', limit_usd => 1, reason => 'test')"),
    );
    expect(rows).toEqual([{ tenant: "Acme" }]);
  });

  test("reads from the doctor what a superuser would do, and nothing worse", async () => {
    const fresh = own.administrator !== server.administrator;
    const found = await wrongIn(inside(), fresh ? "" : withoutHelp);
    expect(found).toEqual(Object.fromEntries(SUPERUSER_CHECKS.map((checked) => [checked, "warning"])));
  });

  test("gives a superuser fixes that do all that superuser.sql does, but its event trigger", async () => {
    const outcome = async (client: pg.Client) => {
      const { server_version: _, ...wrong } = states(await asPeople(client));
      return { wrong, rights: await rights(client) };
    };
    const byFile = await rolledBackIn(inside(), async (client) => {
      await client.query(superuserSql);
      return outcome(client);
    });
    const byFixes = await rolledBackIn(inside(), async (client) => {
      // A role that the first round makes is given what it needs by the second.
      for (let round = 0; round < 2; round += 1) {
        await client.query((await asPeople(client)).flatMap((row) => row.fix ?? []).join("\n"));
      }
      return outcome(client);
    });
    expect(byFile.wrong).toEqual({});
    expect(byFixes).toEqual({ ...byFile, wrong: { ddl: "warning" } });
  });

  test("has tickets in the server's log until a superuser has helped", async ({ skip }) => {
    if (own.log === undefined) return skip("the log of this server is out of reach");
    const ticket = mintTicket(TEST_TICKET_KEY, "00000000-0000-0000-0000-000000000000", 0);
    const logged = async () => {
      const before = readFileSync(own.log!, "utf8").length;
      const mark = randomBytes(8).toString("hex");
      await withClient({ connectionString: url("holdfast_service") }, async (client) => {
        await client.query(`select app.ticket_check($1) as mark_${mark}`, [ticket]);
        await client.query("set log_parameter_max_length_on_error = 0"); // what a session may set, sets nothing free
        await client
          .query(`select 1 / length($1::text || 'x') - 1 / 0 as mark_${mark}`, [ticket])
          .catch(() => {});
      });
      const said = readFileSync(own.log!, "utf8").slice(before);
      expect(said.split(`mark_${mark}`).length).toBeGreaterThan(2);
      return said.includes(ticket);
    };
    expect(await logged()).toBe(true);
    await withClient(inside(), (client) => client.query(superuserSql));
    expect(await logged()).toBe(false);
  });

  async function rolledBackIn<T>(
    config: pg.ClientConfig,
    work: (client: pg.Client) => Promise<T>,
  ): Promise<T> {
    return withClient(config, async (client) => {
      await client.query("begin");
      return work(client);
    });
  }
});
