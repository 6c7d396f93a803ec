// The server of a storm: an embedded one in a temporary folder, with fsync, that can be killed.
import { copyFileSync, mkdtempSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import { createLog } from "../../src/log.ts";
import { bootstrap, migrateDatabase } from "../../src/migrate.ts";
import { type EmbeddedServer, startPostgres } from "../../src/postgres.ts";
import { inDatabase, TEST_PASSWORD, TEST_TICKET_KEY } from "../support/constants.ts";

const DATABASE = "holdfast_storm";
const LOGINS = ["holdfast_admin", "holdfast_service", "holdfast_worker", "holdfast_ops"] as const;
const SETTINGS = { fsync: "on", max_connections: "120" };
/** How long the backends of a killed server may take to notice. */
const GONE_MS = 20_000;

/** The migrated server. */
export type StormServer = {
  superuser: pg.ClientConfig;
  url(login: (typeof LOGINS)[number]): string;
  /** Kills the postmaster, so that nothing is written that was not yet, and starts it again on the same port. */
  crash(): Promise<void>;
  log(): string;
  stop(): Promise<void>;
};

/** Starts and migrates it; its log is left in `folder`. */
export async function stormServer(folder: string): Promise<StormServer> {
  const directory = mkdtempSync(join(tmpdir(), "holdfast-storm-"));
  const start = (port: number) => startPostgres({ directory, port, settings: SETTINGS });
  let server = await start(0);
  const { host, port, superuser, dataDirectory } = server;
  const stop = async () => {
    await server.stop();
    copyFileSync(join(directory, "postgres.log"), join(folder, "postgres.log"));
    await rm(directory, { recursive: true, force: true });
  };
  const url = (login: string) => `postgresql://${login}:${TEST_PASSWORD}@${host}:${port}/${DATABASE}`;
  try {
    const passwords = Object.fromEntries(LOGINS.map((login) => [login, TEST_PASSWORD]));
    await bootstrap(superuser, { database: DATABASE, passwords });
    const log = createLog({ level: "warn" });
    await migrateDatabase(url("holdfast_admin"), TEST_TICKET_KEY, log, { withCurrent: true });
  } catch (error) {
    await stop(); // or it would outlive the run
    throw error;
  }
  return {
    superuser: inDatabase(superuser, DATABASE),
    url,
    crash: async () => {
      const pid = Number(readFileSync(join(dataDirectory, "postmaster.pid"), "utf8").split("\n")[0]);
      process.kill(pid, "SIGKILL");
      await sleep(200);
      await server.stop().catch(() => {});
      server = await patiently(() => start(port));
      if (server.port !== port) throw new Error(`the server came back on port ${server.port}, not ${port}`);
    },
    log: () => readFileSync(join(directory, "postgres.log"), "utf8"),
    stop,
  };
}

async function patiently(start: () => Promise<EmbeddedServer>): Promise<EmbeddedServer> {
  const until = Date.now() + GONE_MS;
  for (;;) {
    try {
      return await start();
    } catch (error) {
      if (Date.now() > until) throw error;
      await sleep(250);
    }
  }
}
