// The server that tests run on, migrated once and offered as a template: TEST_DATABASE_URL if it is set, else a
// container where a Docker engine answers, else the embedded server.
import { mkdtempSync } from "node:fs";
import { readdir, readFile, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type pg from "pg";
import type { TestProject } from "vitest/node";
import { createLog } from "../../src/log.ts";
import { bootstrap, migrateDatabase, withClient } from "../../src/migrate.ts";
import { startPostgres } from "../../src/postgres.ts";
import { inDatabase, TEST_PASSWORD, TEST_TICKET_KEY, type TestServer } from "./constants.ts";

declare module "vitest" {
  export interface ProvidedContext {
    server: TestServer;
  }
}

const TEMPLATE = "holdfast_template";
const LOGINS = ["holdfast_admin", "holdfast_service", "holdfast_worker", "holdfast_ops"];
const FAST: Record<string, string> = { fsync: "off", max_connections: "400" };

/** The server as its administrator reaches it, the address for everyone else, and what ends it. */
type Running = { administrator: pg.ClientConfig; host: string; port: number; stop: () => Promise<void> };

/** Runs before all test files, in the process that starts them. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const running = await findServer();
  const callsDirectory = mkdtempSync(join(tmpdir(), "holdfast-calls-"));
  const end = async () => {
    await rm(callsDirectory, { recursive: true });
    await running.stop();
  };
  try {
    await makeTemplate(running);
  } catch (error) {
    await end(); // or the server would outlive the run
    throw error;
  }

  const { administrator, host, port } = running;
  project.provide("server", { administrator, host, port, template: TEMPLATE, callsDirectory });
  return async () => {
    try {
      await reportUncalled(inDatabase(administrator, TEMPLATE), callsDirectory);
    } finally {
      await end();
    }
  };
}

/** Every test file gets a clone of this database. */
async function makeTemplate({ administrator, host, port }: Running): Promise<void> {
  const version = await withClient(administrator, async (client) => {
    await client.query(`drop database if exists ${TEMPLATE} with (force)`);
    return String((await client.query("show server_version")).rows[0].server_version);
  });
  await bootstrap(administrator, {
    database: TEMPLATE,
    passwords: Object.fromEntries(LOGINS.map((login) => [login, TEST_PASSWORD])),
  });
  await trackFunctions(administrator);
  const adminUrl = `postgresql://holdfast_admin:${TEST_PASSWORD}@${host}:${port}/${TEMPLATE}`;
  await migrateDatabase(adminUrl, TEST_TICKET_KEY, createLog({ level: "warn" }), { withCurrent: true });
  // Tests write statements out, with tickets that any backend takes.
  await withClient(inDatabase(administrator, TEMPLATE), (client) =>
    client.query("update app_private.ticket_keys set binding = 'none'"),
  );
  console.info(`PostgreSQL ${version} on ${host}:${port}`);
}

async function findServer(): Promise<Running> {
  const url = process.env["TEST_DATABASE_URL"];
  if (url !== undefined && url !== "") return given(url);
  if (await answers(process.env["DOCKER_HOST"]?.replace(/^unix:\/\//, "") ?? "/var/run/docker.sock")) {
    try {
      return await container();
    } catch (error) {
      console.warn(`No container (${(error as Error).message}); the embedded server is used.`);
    }
  }

  const directory = mkdtempSync(join(tmpdir(), "holdfast-test-"));
  const server = await startPostgres({ directory, port: 0, settings: FAST });
  const stop = async () => {
    await server.stop();
    await rm(directory, { recursive: true });
  };
  return { administrator: server.superuser, host: server.host, port: server.port, stop };
}

function given(url: string): Running {
  const { hostname, port } = new URL(url);
  return {
    administrator: { connectionString: url },
    host: hostname,
    port: Number(port || 5432),
    stop: async () => {},
  };
}

/** Ten times slower to import than to find out that no engine answers, so only where one does. */
async function container(): Promise<Running> {
  const { GenericContainer, Wait } = await import("testcontainers");
  const started = await new GenericContainer(process.env["TEST_POSTGRES_IMAGE"] ?? "postgres:18")
    .withEnvironment({ POSTGRES_PASSWORD: TEST_PASSWORD })
    .withCommand(["postgres", ...Object.entries(FAST).flatMap(([name, value]) => ["-c", `${name}=${value}`])])
    .withExposedPorts(5432)
    .withWaitStrategy(Wait.forSuccessfulCommand("pg_isready -h 127.0.0.1 -U postgres"))
    .start();
  const host = started.getHost();
  const port = started.getMappedPort(5432);
  const administrator = { host, port, user: "postgres", password: TEST_PASSWORD, database: "postgres" };
  return { administrator, host, port, stop: async () => void (await started.stop()) };
}

function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.on("connect", () => resolve(true)).on("error", () => resolve(false));
    socket.setTimeout(1_000, () => resolve(false));
    socket.on("close", () => resolve(false)).on("connect", () => socket.end());
  });
}

/** Every session of the run counts its calls of PL/pgSQL functions. */
async function trackFunctions(administrator: pg.ClientConfig): Promise<void> {
  await withClient(administrator, async (client) => {
    for (const login of [
      ...LOGINS,
      String((await client.query("select current_user as name")).rows[0].name),
    ]) {
      await client.query(`alter role ${client.escapeIdentifier(login)} set track_functions = 'pl'`);
    }
  });
}

/** Throws, naming each PL/pgSQL function that no test called. Only for a whole run: `npm run test:coverage`. */
async function reportUncalled(template: pg.ClientConfig, callsDirectory: string): Promise<void> {
  if (process.env["FUNCTION_COVERAGE"] !== "1") return;
  const called = new Set<string>();
  for (const file of await readdir(callsDirectory)) {
    for (const name of JSON.parse(await readFile(join(callsDirectory, file), "utf8")))
      called.add(String(name));
  }
  const { rows } = await withClient(template, (client) =>
    client.query<{ name: string }>(
      `select p.pronamespace::regnamespace || '.' || p.proname as name
       from pg_proc as p join pg_language as l on l.oid = p.prolang and l.lanname = 'plpgsql'
       where p.pronamespace::regnamespace::text in ('app', 'app_private', 'ops') order by 1`,
    ),
  );
  if (rows.length === 0) throw new Error("There is no function to look for: this is not the template.");
  const uncalled = rows.map((row) => row.name).filter((name) => !called.has(name));
  console.info(`PL/pgSQL functions called by a test: ${rows.length - uncalled.length} of ${rows.length}`);
  if (uncalled.length > 0) throw new Error(`No test calls ${uncalled.join(", ")}`);
}
