// From an empty server to a migrated database, and from any earlier migration to the newest.
import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { Logger as MigrateLogger } from "@graphile/logger";
import { current, migrate } from "graphile-migrate";
import { clearAllPools } from "graphile-migrate/dist/pgReal.js";
import { Logger as QueueLogger, runMigrations } from "graphile-worker";
import pg from "pg";
import { AppError } from "./errors.ts";
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
 * Does nothing that is done already. Needs a login that may create roles and databases; a superuser also takes the
 * rights on PostgreSQL's own functions from everybody (sql/superuser.sql).
 */
export async function bootstrap(
  administrator: pg.ClientConfig,
  target: { database: string; passwords: Readonly<Record<string, string>> },
): Promise<void> {
  await withClient(administrator, async (client) => {
    // Roles are the cluster's: two starters on one server must not make them at once.
    await client.query("select pg_advisory_lock(hashtext('holdfast.bootstrap'))");
    // A login without its password would be taken for somebody else's at the next start.
    await client.query("begin");
    await client.query(await readFile(projectFile("sql/roles.sql"), "utf8"));
    for (const [login, password] of Object.entries(target.passwords)) {
      await client.query(
        `alter role ${client.escapeIdentifier(login)} password ${client.escapeLiteral(password)}`,
      );
    }
    await client.query("commit");
    const { rowCount } = await client.query("select from pg_database where datname = $1", [target.database]);
    if (rowCount === 0) {
      await client.query(`create database ${client.escapeIdentifier(target.database)} owner ${OWNER}`);
    }
    await shutToOthers(client, target.database);
    await shutBesideTables(client, inDatabase(administrator, target.database));
  });
}

/**
 * What only a superuser can do, in the database itself. For another administrator it stays undone: no tenant's rows
 * depend on it, and `ops.doctor()` says what is missing.
 */
async function shutBesideTables(client: pg.Client, inside: pg.ClientConfig): Promise<void> {
  const text = "select r.rolsuper as superuser from pg_roles as r where r.rolname = current_user";
  const { rows } = await client.query<{ superuser: boolean }>(text);
  if (!rows[0]?.superuser) return;
  const statements = await readFile(projectFile("sql/superuser.sql"), "utf8");
  await withClient(inside, (superuser) => superuser.query(statements));
}

/** The same login, in another database. */
function inDatabase(login: pg.ClientConfig, database: string): pg.ClientConfig {
  if (login.connectionString === undefined) return { ...login, database };
  const url = new URL(login.connectionString);
  url.pathname = `/${encodeURIComponent(database)}`;
  return { ...login, connectionString: url.href };
}

/** Only our roles may connect to the database. The connection's role owns it, or is above it. */
async function shutToOthers(client: pg.Client, database: string): Promise<void> {
  const grants = await readFile(projectFile("migrations/after_reset.sql"), "utf8");
  await client.query(
    grants
      .replaceAll(":DATABASE_NAME", client.escapeIdentifier(database))
      .replaceAll(":DATABASE_OWNER", OWNER),
  );
}

/**
 * Brings a database to the newest committed migration: the queue's own schema, ours, the worker's grants on the
 * queue, who may connect, and the key that verifies tickets. `adminUrl` is a login that is a member of
 * `holdfast_owner`; `withCurrent` also runs what `migrations/current.sql` holds while a change is being written.
 * Throws `config_invalid` when the database knows another key by the number of this one, and when this one has ended.
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
  const { rows } = await client.query<{ name: string }>("select current_database() as name");
  await shutToOthers(client, rows[0]!.name);
  await client.query("select app_private.partitions_make()");
  await registerTicketKey(client, ticketKey);
}

/** The newest committed migration, as the database lists it: its number and `.sql`. Throws where there is none. */
export function newestMigration(): string {
  const numbers = readdirSync(projectFile("migrations/committed")).flatMap(
    (name) => /^(\d{6,})\b.*\.sql$/.exec(name)?.[1] ?? [],
  );
  const newest = numbers.sort().at(-1);
  if (newest === undefined) throw new Error("migrations/committed has no migration");
  return `${newest}.sql`;
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

/**
 * Lets the database verify tickets of this key; one that it knows already stays. A new one binds its tickets as the
 * newest in use does, so that programs behind a pooler go over to it as they are. The secret can be read from what is
 * kept: only the owner sees the table. Throws `config_invalid` when it knows another key by that number: with that
 * replaced, every process that still mints with the old one would be shut out; and when this key has ended.
 */
export async function registerTicketKey(client: pg.ClientBase, key: TicketKey): Promise<void> {
  const { ipad, opad } = ticketPads(key.secret);
  const values = [key.kid, ipad, opad];
  await client.query(
    `insert into app_private.ticket_keys (kid, ipad, opad, binding)
     select $1, $2, $3, coalesce(
       (select k.binding from app_private.ticket_keys as k where k.not_after is null order by k.kid desc limit 1),
       'backend')
     on conflict on constraint ticket_keys_pkey do nothing`,
    values,
  );
  const { rows } = await client.query<{ ended: boolean }>(
    `select coalesce(k.not_after <= clock_timestamp(), false) as ended
     from app_private.ticket_keys as k where k.kid = $1 and k.ipad = $2 and k.opad = $3`,
    values,
  );
  if (rows[0] === undefined) {
    throw new AppError("config_invalid", {
      message: `TICKET_KEY differs from the key that the database knows as number ${key.kid}`,
      detail: { ticket_key_id: key.kid },
      hint: "A new key gets a new TICKET_KEY_ID.",
    });
  }
  if (rows[0].ended) {
    throw new AppError("config_invalid", {
      message: `key number ${key.kid} was retired; take a new TICKET_KEY and TICKET_KEY_ID`,
      detail: { ticket_key_id: key.kid },
      hint: "select * from ops.ticket_keys lists the keys.",
    });
  }
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
