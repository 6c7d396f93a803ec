// A clone of the migrated template outside of the test runner, for what runs longer than a test may.
import { randomUUID } from "node:crypto";
import { createPool } from "../../src/db.ts";
import { bootstrap, withClient } from "../../src/migrate.ts";
import { mintTicket } from "../../src/tickets.ts";
import type { AttackDatabase } from "../attack/probe.ts";
import { inDatabase, TEST_PASSWORD, TEST_TICKET_KEY, type TestServer } from "../support/constants.ts";

/** The clone, and what drops it. */
export type Clone = { database: AttackDatabase; drop(): Promise<void> };

/** Makes one on the server. */
export async function cloneOf(server: TestServer): Promise<Clone> {
  const name = `holdfast_${randomUUID().replaceAll("-", "").slice(0, 16)}`;
  await withClient(server.administrator, (client) =>
    client.query(`create database ${name} template ${server.template} owner holdfast_owner`),
  );
  await bootstrap(server.administrator, { database: name, passwords: {} });
  const url = (login: string) =>
    `postgresql://${login}:${TEST_PASSWORD}@${server.host}:${server.port}/${name}`;
  const open = (login: string) => createPool({ connectionString: url(login), application_name: "soak" });
  const [ops, worker] = [open("holdfast_ops"), open("holdfast_worker")];
  const superuser = createPool({
    ...inDatabase(server.administrator, name),
    options: "-c row_security=on",
    application_name: "soak",
  });
  return {
    database: {
      name,
      url,
      superuser,
      worker: { pool: worker },
      ticket: (tenantId) => mintTicket(TEST_TICKET_KEY, tenantId, 0),
      async addTenant(options = {}) {
        const { rows } = await ops.query<{ tenant_id: string; tenant: string }>(
          "select tenant_id, tenant from ops.tenant_add(name => $1, limit_usd => $2, reason => 'soak')",
          [options.name ?? randomUUID(), options.limitUsd ?? "10"],
        );
        return { tenantId: rows[0]!.tenant_id, name: rows[0]!.tenant };
      },
    },
    async drop() {
      await Promise.all([ops, worker, superuser].map((pool) => pool.end()));
      await withClient(server.administrator, (client) => client.query(`drop database ${name} with (force)`));
    },
  };
}
