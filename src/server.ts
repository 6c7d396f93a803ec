// The database of `npm start`: the embedded server, or your own by DATABASE_URL; with roles, passwords and
// migrations.
import pg from "pg";
import type { Config } from "./config.ts";
import { AppError } from "./errors.ts";
import type { Log } from "./log.ts";
import { bootstrap, migrateDatabase, withClient } from "./migrate.ts";
import { startPostgres } from "./postgres.ts";
import type { Progress } from "./progress.ts";
import { type Login, localSecrets } from "./secrets.ts";

/** A database that is ready; `stop` ends the server where it is ours. */
export type Server = {
  host: string;
  port: number;
  database: string;
  /** Each login's password is a secret of the local folder. */
  url(login: Login): string;
  password(login: Login): string;
  stop(): Promise<void>;
};

const DATABASE = "holdfast";

/** Starts or finds the server, makes the database if it is new, and migrates it. */
export async function openServer(
  config: Config,
  log: Log,
  progress: Progress,
  signal: AbortSignal,
): Promise<Server> {
  const { passwords } = localSecrets(config.directory);
  const { administrator, host, port, database, query, stop } =
    config.databaseUrl === undefined
      ? await embedded(config, progress, signal)
      : external(config.databaseUrl);
  const server: Server = {
    host,
    port,
    database,
    password: (login) => passwords[login],
    url: (login) =>
      `postgresql://${login}:${passwords[login]}@${host}:${port}/${encodeURIComponent(database)}${query}`,
    stop,
  };
  try {
    const fresh =
      config.databaseUrl === undefined ? passwords : await passwordsToSet(administrator, server, passwords);
    await bootstrap(administrator, { database, passwords: fresh }).catch(mayNotBootstrap);
    await migrateDatabase(server.url("holdfast_admin"), config.ticketKey, log);
    return server;
  } catch (error) {
    await stop();
    throw error;
  }
}

type Passwords = Readonly<Record<Login, string>>;

/**
 * The passwords of the logins that a server of somebody's does not have yet. Logins are the whole server's:
 * one that is there with another password is another system's, which would be locked out by ours. Throws
 * `config_invalid`.
 */
async function passwordsToSet(
  administrator: pg.ClientConfig,
  { url }: Server,
  passwords: Passwords,
): Promise<Partial<Passwords>> {
  const present = await withClient(administrator, async (client) => {
    const found = await client.query<{ rolname: Login }>(
      "select rolname from pg_roles where rolname = any ($1) order by rolname",
      [Object.keys(passwords)],
    );
    return found.rows.map((row) => row.rolname);
  });
  for (const login of present) await refuseOtherPassword(login, url(login));
  const missing = Object.entries(passwords).filter(([login]) => !present.some((name) => name === login));
  return Object.fromEntries(missing);
}

/** A server looks at the password first, and only then whether the database is there and may be entered. */
async function refuseOtherPassword(login: Login, connectionString: string): Promise<void> {
  try {
    await withClient({ connectionString }, async () => {});
  } catch (error) {
    const sqlstate = error instanceof pg.DatabaseError ? error.code : undefined;
    if (sqlstate === "3D000" || sqlstate === "42501") return;
    if (sqlstate !== "28P01") throw error;
    throw new AppError("config_invalid", {
      message: `the login ${login} exists on this server with another password, which is left as it is`,
      detail: { login },
      hint:
        "Start with the HOLDFAST_DIR that made it, or give it the password in secrets.json of this one; " +
        "or use another server, or run the parts, as the README says.",
      cause: error,
    });
  }
}

function mayNotBootstrap(error: unknown): never {
  if (!(error instanceof pg.DatabaseError && error.code === "42501")) throw error;
  throw new AppError("config_invalid", {
    message: `the login of DATABASE_URL may not set up a database: ${error.message}`,
    hint: "npm start needs one with CREATEROLE and CREATEDB; or run the parts, as the README says.",
    cause: error,
  });
}

/** `query` is what the logins' URLs end with: how to encrypt, for instance. */
type Found = Pick<Server, "host" | "port" | "database" | "stop"> & {
  administrator: pg.ClientConfig;
  query: string;
};

async function embedded(config: Config, progress: Progress, signal: AbortSignal): Promise<Found> {
  const server = await startPostgres({
    directory: config.directory,
    port: config.postgresPort,
    log: (line) => progress.say(line),
    signal,
  });
  progress.say(
    `PostgreSQL 18 ${server.reused ? "was running" : "is running"} on ${server.host}:${server.port}.`,
  );
  return {
    administrator: server.superuser,
    host: server.host,
    port: server.port,
    database: DATABASE,
    query: "",
    stop: () => server.stop(),
  };
}

/** The administrator connects to `postgres`, for the database itself may not be there yet. */
function external(databaseUrl: string): Found {
  const url = new URL(databaseUrl);
  const database = decodeURIComponent(url.pathname.slice(1)) || DATABASE;
  url.pathname = "/postgres";
  const administrator = { connectionString: url.href };
  for (const own of ["host", "port", "user", "password", "dbname", "options"]) url.searchParams.delete(own);
  return {
    administrator,
    host: url.hostname,
    port: Number(url.port || 5432),
    database,
    query: url.search,
    stop: async () => {},
  };
}
