// `npm start` on a server of the user's own: DATABASE_URL with a login that may create roles and databases,
// and no more. The server is a second embedded one, for roles and their passwords are a whole server's.
import * as fs from "node:fs";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import type { WriteStream } from "node:tty";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { readConfig } from "../src/config.ts";
import { createLog } from "../src/log.ts";
import { withClient } from "../src/migrate.ts";
import { type EmbeddedServer, startPostgres } from "../src/postgres.ts";
import { Progress } from "../src/progress.ts";
import { sampleTenants, writeSample } from "../src/sample.ts";
import { start } from "../src/start.ts";
import { cleanUp, type Ended, endProcesses, newDirectory, runNode } from "./support/process.ts";

const PASSWORD = "p@ss:w/rd with %41 signs";
const database = "my costs";
const directory = newDirectory();
const folder = fs.mkdtempSync(join(directory, "..", "bills-"));
let server: EmbeddedServer;
let bill: { path: string; rows: number };

function settings(login: string): Record<string, string> {
  const password = encodeURIComponent(PASSWORD);
  return {
    ENVIRONMENT: "development",
    DATABASE_URL: `postgresql://${login}:${password}@127.0.0.1:${server.port}/${encodeURIComponent(database)}`,
    HOLDFAST_DIR: directory,
    HTTP_PORT: "0",
  };
}

function importing(
  login: string,
  given: { path?: string; tenant?: string; dir?: string } = {},
): Promise<Ended> {
  const { path = bill.path, tenant = "Mine", dir = directory } = given;
  const args = ["start", "--once", "--json", "--no-sample", "--import", path, "--tenant", tenant];
  return runNode(args, { ...settings(login), HOLDFAST_DIR: dir }).ended;
}

/** Rows of a statement on the server, as its superuser. */
async function look(text: string, of = database) {
  return withClient({ ...server.superuser, database: of }, async (client) => (await client.query(text)).rows);
}

/** The logins of the server, each with what it keeps of the password. */
function logins() {
  return look(
    "select rolname, rolpassword from pg_authid where rolname ~ '^holdfast_' order by 1",
    "postgres",
  );
}

beforeAll(async () => {
  server = await startPostgres({ directory: newDirectory(), port: 0, settings: { fsync: "off" } });
  await withClient(server.superuser, async (client) => {
    for (const [login, options] of [
      ["dba", "createrole createdb"],
      ["nobody_special", ""],
    ]) {
      await client.query(`create role ${login} login ${options} password ${client.escapeLiteral(PASSWORD)}`);
    }
  });
  bill = await writeSample(sampleTenants(new Date(new Date().toISOString().slice(0, 10)))[4]!, folder);
});

afterEach(endProcesses);
afterAll(async () => {
  await server.stop();
  await cleanUp();
});

describe("npm start with DATABASE_URL", { timeout: 60_000 }, () => {
  it("is refused to a login that may not create roles, in words", async () => {
    const { code, stdout, stderr } = await importing("nobody_special");
    expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(/create roles|createrole/i);
    expect(stderr).not.toMatch(/^ +at /m);
    expect(stderr).not.toContain(PASSWORD);
  });

  it("leaves a login alone that another system made, and makes nothing beside it", async () => {
    await look("create role holdfast_ops login password 'theirs'", "postgres");
    const before = await logins();
    const { code, stdout, stderr } = await importing("dba");
    expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(
      /^config_invalid: the login holdfast_ops exists on this server with another password/m,
    );
    expect(stderr).toContain("HOLDFAST_DIR");
    expect(stderr).not.toMatch(/^ +at /m);
    expect(await logins()).toEqual(before);
    await look("drop role holdfast_ops", "postgres");
  });

  it("does the main job on it as one who is no superuser", async () => {
    const { code, stdout, stderr } = await importing("dba");
    expect(code, stderr.slice(-3_000)).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      tenants: [{ tenant: "Mine", rows: bill.rows, state: "completed" }],
    });
    expect(stderr).not.toContain(PASSWORD);
    // The server is not ours: it runs on, and nothing of an embedded one was made.
    expect(await withClient(server.superuser, async () => "runs")).toBe("runs");
    expect(fs.existsSync(join(directory, "data"))).toBe(false);
  });

  it("is refused to a second folder, whose passwords are others", async () => {
    const before = await logins();
    expect(before.filter((login) => login.rolpassword !== null)).toHaveLength(4);
    const { code, stderr } = await importing("dba", { dir: newDirectory() });
    expect(code).toBe(1);
    expect(stderr).toContain("config_invalid: the login holdfast_admin exists");
    expect(await logins()).toEqual(before);
  });

  it("makes no tenant for a file that is refused, and shows the refusal to one that is there", async () => {
    const tenants = () => look("select tenant, tenant_id from ops.tenants order by 1");
    const before = await tenants();
    expect(before).toHaveLength(1);
    const path = join(folder, "broken.csv");
    const lines = fs.readFileSync(bill.path, "utf8").trimEnd().split("\n");
    fs.writeFileSync(path, [...lines, "not,a,row"].join("\n"));

    for (const tenant of ["New", "Mine"]) {
      const { code, stdout, stderr } = await importing("dba", { path, tenant });
      expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: "" });
      expect(stderr).toContain(`focus_invalid: broken.csv, line ${lines.length + 1}`);
      expect(stderr.includes("import_failed")).toBe(tenant === "Mine");
      expect(await tenants()).toEqual(before);
    }
    expect(await look("select tenant, status, file_name from ops.imports order by started_at")).toMatchObject(
      [
        { tenant: "Mine", status: "PUBLISHED" },
        { tenant: "Mine", status: "FAILED", file_name: "broken.csv" },
      ],
    );
  });

  it("serves again until its signal, makes no sample beside real tenants, and tells how to look", async () => {
    const printed: string[] = [];
    const stdout = vi
      .spyOn(process.stdout, "write")
      .mockImplementation((text) => printed.push(String(text)) > 0);
    const ending = new AbortController();
    const progress = new Progress(
      Object.assign(new PassThrough(), { isTTY: false }) as unknown as WriteStream,
    );
    const config = readConfig("all", settings("dba"));
    const log = createLog({ level: "info", destination: progress.log });
    const options = {
      once: false,
      json: false,
      sample: true,
      importFile: undefined,
      tenant: undefined,
      source: "import",
    };
    try {
      const ended = start({ config, log, progress, signal: ending.signal, options });
      await expect
        .poll(() => printed.join(""), { timeout: 30_000, interval: 20 })
        .toMatch(/until Ctrl-C.*psql .*\n/s);
      const url = /holdfast serves on (\S+)/.exec(printed.join(""))?.[1];
      expect((await fetch(`${url}/readyz`)).status).toBe(200);
      expect(printed.join("")).toMatch(/^Mine +ACTIVE/m);
      expect(printed.join("")).not.toMatch(/^Tidewater/m);
      expect(printed.join("")).toContain(`-h 127.0.0.1 -p ${server.port} -U holdfast_ops -d 'my costs'`);
      ending.abort(new Error("SIGINT"));
      expect(await ended).toBe(true);
      await expect(fetch(`${url}/livez`)).rejects.toThrow();
    } finally {
      ending.abort(new Error("SIGINT"));
      stdout.mockRestore();
    }
  });

  it("is refused without ENVIRONMENT, for the server may be anybody's", async () => {
    const { ENVIRONMENT: _, ...others } = settings("dba");
    const { code, stderr } = await runNode(["start", "--once"], others).ended;
    expect(code).toBe(1);
    expect(stderr).toContain("ENVIRONMENT is missing");
  });
});
