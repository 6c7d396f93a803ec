// From an empty server to a migrated database, and from any earlier migration to the newest.
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { Logger as MigrateLogger } from "@graphile/logger";
import { current, migrate } from "graphile-migrate";
import { clearAllPools } from "graphile-migrate/dist/pgReal.js";
import { Logger as QueueLogger, runMigrations } from "graphile-worker";
import pg from "pg";
import type { Log } from "./log.ts";
import type { TicketKey } from "./tickets.ts";
import { ticketPads } from "./tickets.ts";

const PROJECT = new URL("../", import.meta.url);
const OWNER = "holdfast_owner";

/** A file of the project, by its path from the top. */
export function projectFile(path: string): string {
  return fileURLToPath(new URL(path, PROJECT));
}

/**
 * Makes the roles, the passwords of the logins and an empty database that belongs to `holdfast_owner`.
 * Does nothing that is done already. Needs a login that may create roles and databases.
 */
export async function bootstrap(
  administrator: pg.ClientConfig,
  target: { database: string; passwords: Readonly<Record<string, string>> },
): Promise<void> {
  await withClient(administrator, async (client) => {
    // Roles are the cluster's: two starters on one server must not make them at once.
    await client.query("select pg_advisory_lock(hashtext('holdfast.bootstrap'))");
    await client.query(await readFile(projectFile("sql/roles.sql"), "utf8"));
    for (const [login, password] of Object.entries(target.passwords)) {
      await client.query(
        `alter role ${client.escapeIdentifier(login)} password ${client.escapeLiteral(password)}`,
      );
    }
    const { rowCount } = await client.query("select from pg_database where datname = $1", [target.database]);
    if (rowCount === 0) {
      await client.query(`create database ${client.escapeIdentifier(target.database)} owner ${OWNER}`);
    }
    const grants = await readFile(projectFile("migrations/after_reset.sql"), "utf8");
    await client.query(
      grants
        .replaceAll(":DATABASE_NAME", client.escapeIdentifier(target.database))
        .replaceAll(":DATABASE_OWNER", OWNER),
    );
  });
}

/**
 * Brings a database to the newest committed migration: the queue's own schema, ours, the worker's grants on the
 * queue, and the key that verifies tickets. `adminUrl` is a login that is a member of `holdfast_owner`;
 * `withCurrent` also runs what `migrations/current.sql` holds while a change is being written.
 */
export async function migrateDatabase(
  adminUrl: string,
  ticketKey: TicketKey,
  log: Log,
  options: { withCurrent?: boolean } = {},
): Promise<void> {
  const connectionString = asOwner(adminUrl);
  await withClient({ connectionString }, async (client) => {
    // Two at once wait for one another; graphile-migrate's own lock would make the second fail.
    await client.query("select pg_advisory_lock(hashtext('holdfast.migrate'))");
    await migrateLocked(client, connectionString, { ticketKey, log, ...options });
  });
}

async function migrateLocked(
  client: pg.Client,
  connectionString: string,
  { ticketKey, log, withCurrent }: { ticketKey: TicketKey; log: Log; withCurrent?: boolean },
): Promise<void> {
  await runMigrations({ connectionString, logger: new QueueLogger(quietly(log)) });
  await (withCurrent ? current : migrate)({
    ...migrateSettings(connectionString),
    logger: new MigrateLogger(quietly(log)),
  });
  // It keeps a connection for a while, and ends this process when the server is stopped under it.
  clearAllPools();
  await client.query(await readFile(projectFile("sql/worker_grants.sql"), "utf8"));
  await registerTicketKey(client, ticketKey);
  await client.query("select app_private.partitions_make()");
}

/** What `.gmrc` says, for a call of graphile-migrate as a library. */
export function migrateSettings(connectionString: string) {
  return {
    connectionString,
    databaseOwner: OWNER,
    migrationsFolder: projectFile("migrations"),
    pgSettings: { lock_timeout: "3s" },
  };
}

/** The same URL, with every connection acting as `holdfast_owner` from its first statement. */
export function asOwner(url: string): string {
  const target = new URL(url);
  target.searchParams.set("options", `-c role=${OWNER}`);
  return target.href;
}

/** Lets the database verify tickets of this key. The secret can be read from what is kept: only the owner sees the table. */
export async function registerTicketKey(client: pg.ClientBase, key: TicketKey): Promise<void> {
  const { ipad, opad } = ticketPads(key.secret);
  await client.query(
    `insert into app_private.ticket_keys (kid, ipad, opad) values ($1, $2, $3)
     on conflict on constraint ticket_keys_pkey do update set ipad = excluded.ipad, opad = excluded.opad
     where (ticket_keys.ipad, ticket_keys.opad) is distinct from (excluded.ipad, excluded.opad)`,
    [key.kid, ipad, opad],
  );
}

/** Lends a connection of its own, and ends it. */
export async function withClient<T>(
  config: pg.ClientConfig,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({
    connectionTimeoutMillis: 10_000,
    application_name: "holdfast migrate",
    ...config,
  });
  client.on("error", () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** What graphile's tools say, in our log: what they say in passing is heard only by someone who debugs. */
function quietly(log: Log) {
  const levels = { error: "error", warning: "warn", info: "debug", debug: "trace" } as const;
  return (scope: object) => (level: keyof typeof levels, message: string) =>
    log[levels[level]]({ scope }, message.trim());
}
