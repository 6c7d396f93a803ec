// Where the bench runs: an embedded server of its own in a temporary folder, or a scratch database of a given one.
import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type pg from "pg";
import { createLog } from "../../../src/log.ts";
import { bootstrap, migrateDatabase, withClient } from "../../../src/migrate.ts";
import { startPostgres } from "../../../src/postgres.ts";
import { inDatabase, TEST_PASSWORD, TEST_TICKET_KEY } from "../../support/constants.ts";

const LOGINS = ["holdfast_admin", "holdfast_service", "holdfast_worker", "holdfast_ops"];

/** Nothing but the queries writes: no background work falls into a round. */
const QUIET = { fsync: "off", autovacuum: "off", shared_buffers: "1GB", max_wal_size: "8GB", jit: "off" };

/** A migrated scratch database, and what ends it. */
export type Scratch = {
  version: string;
  /** As a superuser, to make the scene. */
  superuser: pg.ClientConfig;
  /** Over TCP, as the shell connects. */
  service: pg.ClientConfig;
  stop(): Promise<void>;
};

type Place = { administrator: pg.ClientConfig; host: string; port: number; stop: () => Promise<void> };

/** Opens the server at a superuser's URL, or an embedded one for `embedded`. It sets the passwords of our logins. */
export async function openScratch(where: string): Promise<Scratch> {
  const place = where === "embedded" ? await embedded() : given(where);
  const database = `holdfast_bench_${randomUUID().slice(0, 8)}`;
  const drop = () =>
    withClient(place.administrator, async (client) => {
      await client.query(`drop database if exists ${database} with (force)`);
    });
  const stop = async () => {
    await drop().finally(place.stop);
  };
  const address = (login: string) =>
    `postgresql://${login}:${TEST_PASSWORD}@${place.host}:${place.port}/${database}`;
  try {
    const passwords = Object.fromEntries(LOGINS.map((login) => [login, TEST_PASSWORD]));
    await bootstrap(place.administrator, { database, passwords });
    const log = createLog({ level: "warn" });
    await migrateDatabase(address("holdfast_admin"), TEST_TICKET_KEY, log, { withCurrent: true });
    const version = await withClient(place.administrator, async (client) =>
      String((await client.query("show server_version")).rows[0].server_version),
    );
    return {
      version: version.split(" ")[0]!,
      superuser: inDatabase(place.administrator, database),
      service: { connectionString: address("holdfast_service") },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function given(url: string): Place {
  const { hostname, port } = new URL(url);
  const stop = async () => {};
  return { administrator: { connectionString: url }, host: hostname, port: Number(port || 5432), stop };
}

async function embedded(): Promise<Place> {
  const directory = await mkdtemp(join(tmpdir(), "holdfast-bench-"));
  const server = await startPostgres({ directory, port: 0, settings: QUIET });
  const stop = async () => {
    await server.stop();
    await rm(directory, { recursive: true });
  };
  return { administrator: server.superuser, host: server.host, port: server.port, stop };
}
