// Where a bench runs: an embedded server of its own in a temporary folder, or scratch databases of a given one.
import { randomUUID } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type pg from "pg";
import { createLog } from "../../src/log.ts";
import { bootstrap, migrateDatabase, withClient } from "../../src/migrate.ts";
import { startPostgres } from "../../src/postgres.ts";
import { inDatabase, TEST_PASSWORD, TEST_TICKET_KEY } from "../support/constants.ts";

const LOGINS = ["holdfast_admin", "holdfast_service", "holdfast_worker", "holdfast_ops"];

/** Of USER_HZ, in which Linux tells the CPU of a process. */
const TICKS_PER_SECOND = 100;

/** A server that a bench may do with as it likes, but for databases that are not its own. */
export type BenchServer = {
  version: string;
  host: string;
  port: number;
  /** A superuser, in the database where others are made. */
  administrator: pg.ClientConfig;
  /** Makes a migrated database; it sets the passwords of our logins. */
  scratch(): Promise<Scratch>;
  /** What all processes of the server have used, user and system, in s; undefined when it is on another host. */
  cpuSeconds(): number | undefined;
  /** Drops the databases that it made, and ends a server of its own. */
  stop(): Promise<void>;
};

/** A migrated scratch database. */
export type Scratch = {
  database: string;
  /** As a superuser, to make the scene. */
  superuser: pg.ClientConfig;
  /** Over TCP, as the programs connect. */
  url(login: "holdfast_admin" | "holdfast_service" | "holdfast_worker" | "holdfast_ops"): string;
  drop(): Promise<void>;
};

type Place = { administrator: pg.ClientConfig; host: string; port: number; stop: () => Promise<void> };

/** Opens the server at a superuser's URL, or one of its own with these settings for `embedded`. */
export async function openServer(where: string, settings: Record<string, string>): Promise<BenchServer> {
  const place = where === "embedded" ? await embedded(settings) : given(where);
  const databases = new Set<string>();
  const drop = async (database: string) => {
    await withClient(place.administrator, async (client) => {
      await client.query(`drop database if exists ${database} with (force)`);
    });
    databases.delete(database);
  };
  let stopped: Promise<void> | undefined;
  const end = async () => {
    try {
      for (const database of databases) await drop(database);
    } finally {
      await place.stop();
    }
  };
  const stop = () => {
    stopped ??= end();
    return stopped;
  };
  try {
    const { version, postmaster } = await about(place.administrator);
    return {
      version,
      host: place.host,
      port: place.port,
      administrator: place.administrator,
      scratch: async () => {
        const database = `holdfast_bench_${randomUUID().slice(0, 8)}`;
        databases.add(database);
        const url = (login: string) =>
          `postgresql://${login}:${TEST_PASSWORD}@${place.host}:${place.port}/${database}`;
        const passwords = Object.fromEntries(LOGINS.map((login) => [login, TEST_PASSWORD]));
        await bootstrap(place.administrator, { database, passwords });
        const log = createLog({ level: "warn" });
        await migrateDatabase(url("holdfast_admin"), TEST_TICKET_KEY, log, { withCurrent: true });
        const superuser = inDatabase(place.administrator, database);
        return { database, superuser, url, drop: () => drop(database) };
      },
      cpuSeconds: () => (postmaster === undefined ? undefined : cpuOfFamily(postmaster)),
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

async function embedded(settings: Record<string, string>): Promise<Place> {
  const directory = await mkdtemp(join(tmpdir(), "holdfast-bench-"));
  const server = await startPostgres({ directory, port: 0, settings });
  const stop = async () => {
    await server.stop();
    await rm(directory, { recursive: true });
  };
  return { administrator: server.superuser, host: server.host, port: server.port, stop };
}

async function about(administrator: pg.ClientConfig): Promise<{ version: string; postmaster?: number }> {
  return withClient(administrator, async (client) => {
    const { rows } = await client.query<{ version: string; pid: string }>(
      `select split_part(current_setting('server_version'), ' ', 1) as version,
              split_part(pg_read_file('postmaster.pid'), E'\\n', 1) as pid`,
    );
    const { version, pid } = rows[0]!;
    // A number of another host, or of another name space, is not its parent here.
    const backend = (await client.query<{ pid: number }>("select pg_backend_pid() as pid")).rows[0]!.pid;
    return statOf(backend)?.parent === Number(pid) ? { version, postmaster: Number(pid) } : { version };
  });
}

/** The CPU of a process, of its children, and of those that have ended, in s. */
function cpuOfFamily(pid: number): number {
  let ticks = 0;
  for (const name of readdirSync("/proc")) {
    const stat = /^\d+$/.test(name) ? statOf(Number(name)) : undefined;
    if (stat?.pid === pid) ticks += stat.own + stat.ended;
    else if (stat?.parent === pid) ticks += stat.own;
  }
  return ticks / TICKS_PER_SECOND;
}

/** The CPU of one process, in s; undefined when it is no more. */
export function cpuOfProcess(pid: number): number | undefined {
  const stat = statOf(pid);
  return stat && stat.own / TICKS_PER_SECOND;
}

/** proc(5): what stands behind the name, which may hold anything, from the state on. */
function statOf(pid: number): { pid: number; parent: number; own: number; ended: number } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    const [parent, ...ticks] = [1, 11, 12, 13, 14].map((at) => Number(fields[at]));
    return { pid, parent: parent!, own: ticks[0]! + ticks[1]!, ended: ticks[2]! + ticks[3]! };
  } catch {
    return undefined; // it has ended, or this is no Linux
  }
}
