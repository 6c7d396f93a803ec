// A database of a test file's own: a clone of the migrated template, dropped at the end. Tests commit in it: a stranger
// is another transaction.
import { randomUUID } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import { afterAll, beforeAll, inject } from "vitest";
import { createPool, type Db } from "../../src/db.ts";
import { bootstrap, withClient } from "../../src/migrate.ts";
import { mintTicket } from "../../src/tickets.ts";
import { inDatabase, TEST_PASSWORD, TEST_TICKET_KEY } from "./constants.ts";

/** A tenant that a test made. */
export type TestTenant = { tenantId: string; name: string };

/** The clone, as each login sees it. Everything is there from `beforeAll` on. */
export type TestDatabase = {
  readonly name: string;
  /** The URL of a login of the clone. */
  url(login: "holdfast_admin" | "holdfast_service" | "holdfast_worker" | "holdfast_ops"): string;
  readonly service: Db;
  readonly worker: Db;
  /** People in psql. */
  readonly ops: pg.Pool;
  /** Sees and may do everything: to look behind the curtain, and to break things on purpose. */
  readonly superuser: pg.Pool;
  /** Makes a tenant with a monthly budget in US dollars (10 by default). */
  addTenant(options?: {
    name?: string;
    limitUsd?: string;
    tier?: string;
    timeZone?: string;
  }): Promise<TestTenant>;
  /** A ticket that any backend takes, for statements that a test writes out. */
  ticket(tenantId: string): string;
};

/** Call it once, at the top of a test file. */
export function testDatabase(): TestDatabase {
  const server = inject("server");
  const name = `holdfast_${randomUUID().replaceAll("-", "").slice(0, 16)}`;
  const url = (login: string) =>
    `postgresql://${login}:${TEST_PASSWORD}@${server.host}:${server.port}/${name}`;
  const pools: pg.Pool[] = [];
  const open = (config: pg.PoolConfig) => {
    const pool = createPool({ ...config, application_name: "test" });
    pools.push(pool);
    return pool;
  };
  const ops = open({ connectionString: url("holdfast_ops") });
  const superuser = open({
    ...inDatabase(server.administrator, name),
    options: "-c row_security=on",
  });

  beforeAll(async () => {
    await withClient(server.administrator, (client) =>
      client.query(`create database ${name} template ${server.template} owner holdfast_owner`),
    );
    await bootstrap(server.administrator, { database: name, passwords: {} });
  });
  afterAll(async () => {
    await Promise.all(pools.map((pool) => pool.end()));
    await withClient(inDatabase(server.administrator, name), recordCalls);
    await withClient(server.administrator, (client) => client.query(`drop database ${name} with (force)`));
  });

  /** What the clone counted is lost with it. A function that only raises has a row, and a count of 0. */
  async function recordCalls(client: pg.Client): Promise<void> {
    await whenAlone(client);
    const { rows } = await client.query<{ name: string }>(
      "select schemaname || '.' || funcname as name from pg_stat_user_functions",
    );
    await writeFile(join(server.callsDirectory, `${name}.json`), JSON.stringify(rows.map((row) => row.name)));
  }

  return {
    name,
    url,
    service: { pool: open({ connectionString: url("holdfast_service") }), ticketKey: TEST_TICKET_KEY },
    worker: { pool: open({ connectionString: url("holdfast_worker") }), ticketKey: TEST_TICKET_KEY },
    ops,
    superuser,
    async addTenant(options = {}) {
      const { rows } = await ops.query<{ tenant_id: string; tenant: string }>(
        "select tenant_id, tenant from ops.tenant_add(name => $1, limit_usd => $2, tier => $3, time_zone => $4, reason => 'test')",
        [
          options.name ?? `tenant ${randomUUID()}`,
          options.limitUsd ?? "10",
          options.tier ?? "ACTIVE",
          options.timeZone ?? "UTC",
        ],
      );
      return { tenantId: rows[0]!.tenant_id, name: rows[0]!.tenant };
    },
    ticket: (tenantId) => mintTicket(TEST_TICKET_KEY, tenantId, 0),
  };
}

/** Waits until this connection is the database's only one: backends report what they counted with their end. */
export async function whenAlone(client: pg.Client): Promise<void> {
  const left = `select count(*)::int as backends from pg_stat_activity
    where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()`;
  for (let tries = 0; tries < 100; tries += 1) {
    if ((await client.query<{ backends: number }>(left)).rows[0]?.backends === 0) return;
    await sleep(20);
  }
}
