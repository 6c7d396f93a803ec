// A server of chaos' own: the embedded one in a temporary folder, which may be restarted, or the one of CHAOS_DATABASE_URL.
import { randomUUID } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import { withClient } from "../../src/migrate.ts";
import { type EmbeddedServer, startPostgres } from "../../src/postgres.ts";
import { inDatabase } from "../support/constants.ts";

const SETTINGS = { fsync: "off", max_connections: "250" };

/** `fast` ends sessions in order; `immediate` is what a power cut is. */
export type RestartMode = "fast" | "immediate";

/** Where chaos happens. */
export type ChaosServer = {
  database: string;
  /** The superuser, in the database. */
  superuser: pg.ClientConfig;
  /** The superuser, beside it. */
  administrator: pg.ClientConfig;
  host: string;
  port: number;
  /** Undefined where the server is somebody else's. */
  restart?: (mode: RestartMode) => Promise<void>;
  /** What the server has logged; empty where it is somebody else's. */
  log(): string;
  stop(): Promise<void>;
};

/** Starts the embedded server, or makes a database on the one that is given, unless `embedded` is wanted. */
export async function chaosServer(wanted: { embedded?: boolean } = {}): Promise<ChaosServer> {
  const database = `holdfast_chaos_${randomUUID().slice(0, 8)}`;
  const url = process.env["CHAOS_DATABASE_URL"];
  return wanted.embedded || url === undefined || url === "" ? embedded(database) : given(url, database);
}

async function embedded(database: string): Promise<ChaosServer> {
  const directory = mkdtempSync(join(tmpdir(), "holdfast-chaos-"));
  const start = (port: number): Promise<EmbeddedServer> =>
    startPostgres({ directory, port, settings: SETTINGS });
  let server = await start(0);
  const { host, port, superuser } = server;
  const restart = async (mode: RestartMode) => {
    if (mode === "immediate") await killPostmaster(server.dataDirectory);
    await server.stop();
    server = await start(port);
    if (server.port !== port) throw new Error(`the server came back on port ${server.port}, not ${port}`);
  };
  return {
    database,
    administrator: superuser,
    superuser: inDatabase(superuser, database),
    host,
    port,
    restart,
    log: () => readFileSync(join(directory, "postgres.log"), "utf8"),
    stop: async () => {
      await server.stop();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

async function killPostmaster(dataDirectory: string): Promise<void> {
  const file = join(dataDirectory, "postmaster.pid");
  process.kill(Number(readFileSync(file, "utf8").split("\n")[0]), "SIGQUIT");
  for (let tries = 0; existsSync(file) && tries < 400; tries += 1) await sleep(25);
}

function given(url: string, database: string): ChaosServer {
  const administrator = { connectionString: url };
  const { hostname, port } = new URL(url);
  if (!["127.0.0.1", "localhost", "[::1]"].includes(hostname))
    throw new Error("chaos stays on this machine: CHAOS_DATABASE_URL must name 127.0.0.1");
  return {
    database,
    administrator,
    superuser: inDatabase(administrator, database),
    host: hostname,
    port: Number(port || 5432),
    log: () => "",
    stop: () =>
      withClient(administrator, async (client) => {
        await client.query(`drop database if exists ${database} with (force)`);
      }),
  };
}
