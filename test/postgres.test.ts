// The embedded server on real folders, with real processes and real kills.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import pg from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { embeddedPackage, runAs, SHARED_FOLDER, serverAccount } from "../src/postgres/host.ts";
import { startOf } from "../src/postgres/lock.ts";
import { socketFolder } from "../src/postgres/place.ts";
import { type EmbeddedServer, type PostgresOptions, startPostgres } from "../src/postgres.ts";
import { lockOf } from "./support/process.ts";

const isRoot = process.getuid?.() === 0;
/** We kill processes, not machines. */
const FAST = { fsync: "off" };

let template: string;
const folders: string[] = [];
const children: ChildProcess[] = [];
const servers: EmbeddedServer[] = [];

/** A path that does not exist yet, in a new folder that the afterEach removes. */
function newDirectory(): string {
  const base = fs.mkdtempSync(join(tmpdir(), "holdfast-pg-"));
  fs.chmodSync(base, 0o755); // The server's user may pass, also where that is not us.
  folders.push(base);
  return join(base, ".holdfast");
}

/** Such a folder that has a cluster, a copy of one that was stopped. It saves an initdb. */
function newCluster(directory = newDirectory()): string {
  spawnSync("cp", ["-a", template, directory]);
  return directory;
}

async function start(options: Partial<PostgresOptions> & { directory: string }): Promise<EmbeddedServer> {
  const server = await startPostgres({ port: 0, settings: FAST, ...options });
  servers.push(server);
  return server;
}

async function query(config: pg.ClientConfig, sql: string): Promise<Record<string, unknown>> {
  const client = new pg.Client(config);
  client.on("error", () => {});
  try {
    await client.connect();
    return (await client.query(sql)).rows[0] ?? {};
  } finally {
    await client.end().catch(() => {});
  }
}

/** Another Node process that starts the server of the folder and keeps it; resolves once the word comes. */
async function startElsewhere(directory: string, word: string): Promise<number> {
  const source = pathToFileURL(join(import.meta.dirname, "../src/postgres.ts"));
  const script = `
    import { startPostgres } from "${source}";
    console.log("begun");
    await startPostgres({ directory: process.argv[1], port: 0, settings: ${JSON.stringify(FAST)} });
    console.log("started");
    setInterval(() => {}, 1000);`;
  // Its own process group, as a terminal makes one for what is typed into it.
  const child = spawn(process.execPath, ["--input-type=module", "-e", script, directory], {
    detached: true,
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(child);
  child.stdout.setEncoding("utf8");
  for await (const text of child.stdout) if (String(text).includes(word)) break;
  return child.pid!;
}

async function killGroup(pid: number): Promise<void> {
  process.kill(-pid, "SIGKILL");
  await gone(pid);
}

async function gone(pid: number): Promise<void> {
  await vi.waitFor(() => expect(startOf(pid)).toBeUndefined(), { timeout: 10_000, interval: 10 });
}

function postmasterPid(directory: string): number {
  return Number(fs.readFileSync(join(directory, "data/postmaster.pid"), "utf8").split("\n")[0]);
}

function uidOf(pid: number): number {
  return fs.statSync(`/proc/${pid}`).uid;
}

/** Every path below the folder. */
function listing(folder: string): string[] {
  const entries = fs.readdirSync(folder, { recursive: true, withFileTypes: true });
  return entries.map((each) => join(each.parentPath, each.name)).sort();
}

async function cleanUp(): Promise<void> {
  for (const child of children.splice(0)) {
    if (child.pid === undefined || startOf(child.pid) === undefined) continue;
    await killGroup(child.pid);
  }
  for (const server of servers.splice(0)) await server.stop();
  for (const base of folders.splice(0)) {
    // What a killed process has left running is stopped through the front door.
    const directory = join(base, ".holdfast");
    if (fs.existsSync(join(directory, "data/postmaster.pid")))
      await (await startPostgres({ directory, port: 0 })).stop();
    const data = fs.realpathSync.native(
      fs.existsSync(join(directory, "data")) ? join(directory, "data") : base,
    );
    if (data.startsWith(`${SHARED_FOLDER}/`)) fs.rmSync(dirname(data), { recursive: true });
    fs.rmSync(base, { recursive: true, force: true });
  }
}

beforeAll(async () => {
  const base = fs.mkdtempSync(join(tmpdir(), "holdfast-pg-template-"));
  fs.chmodSync(base, 0o755);
  template = join(base, ".holdfast");
  vi.stubEnv("LANG", undefined);
  vi.stubEnv("LC_ALL", "en_NOWHERE.ISO-8859-1");
  await (await startPostgres({ directory: template, port: 0 })).stop();
  vi.unstubAllEnvs();
});

afterAll(() => {
  fs.rmSync(dirname(template), { recursive: true, force: true });
});

describe("a running server", () => {
  let directory: string;
  let server: EmbeddedServer;
  let base: string[];

  beforeAll(async () => {
    directory = newCluster();
    base = folders.splice(0);
    server = await startPostgres({ directory, port: 0, settings: { track_functions: "pl", jit: "on" } });
  });

  afterAll(async () => {
    await server.stop();
    folders.push(...base);
    await cleanUp();
  });

  it("speaks UTF-8 with the builtin locale, whatever the environment said when it was made", async () => {
    const row = await query(
      server.superuser,
      `select upper('é') as upper, pg_encoding_to_char(encoding) as encoding, datlocprovider, datlocale
       from pg_database where datname = 'postgres'`,
    );
    expect(row).toEqual({ upper: "É", encoding: "UTF8", datlocprovider: "b", datlocale: "C.UTF-8" });
  });

  it("runs with our settings, and with those it was given", async () => {
    const row = await query(
      server.superuser,
      `select current_setting('server_version_num')::int / 10000 as major,
              current_setting('timezone') as timezone, current_setting('fsync') as fsync,
              current_setting('data_checksums') as checksums,
              current_setting('track_functions') as track_functions, current_setting('jit') as jit`,
    );
    const ours = { major: 18, timezone: "UTC", fsync: "on", checksums: "on" };
    expect(row).toEqual({ ...ours, track_functions: "pl", jit: "on" });
  });

  it("lets nobody but its own user and root into the folder of the socket", () => {
    const { mode, uid } = fs.statSync(server.superuser.host);
    expect(mode & 0o777).toBe(0o700);
    expect(uid).toBe(uidOf(postmasterPid(directory)));
  });

  it("has nothing that other users can read but process and port numbers", () => {
    const closed = (path: string) =>
      path.startsWith(server.dataDirectory) || path.startsWith(server.superuser.host);
    const open = listing(directory).filter(
      (path) => !closed(path) && (fs.lstatSync(path).mode & 0o044) !== 0,
    );
    const names = open.map((path) => basename(path).replace(/\.\d+$/, ""));
    expect(names).toEqual(["holdfast.pid", "postgres.port"]);
    expect(fs.statSync(server.dataDirectory).mode & 0o077).toBe(0);
    for (const path of open) expect(fs.readFileSync(path, "utf8")).toMatch(/^[\d\sa-f-]+$/);
  });

  it("asks for a password over TCP, and refuses the superuser there", async () => {
    await query(server.superuser, "create role someone login password 'pass'");
    const tcp = { host: server.host, port: server.port, database: "postgres", password: "pass" };
    expect(await query({ ...tcp, user: "someone" }, "select current_user as me")).toEqual({ me: "someone" });
    await expect(query({ ...tcp, user: "someone", password: "guess" }, "select 1")).rejects.toThrow(
      /password/,
    );
    await expect(query({ ...tcp, user: "postgres" }, "select 1")).rejects.toThrow(/reject/);
    const local = { ...server.superuser, user: "someone", password: "guess" };
    await expect(query(local, "select 1")).rejects.toThrow(/password/);
  });

  it("keeps no password in clear", async () => {
    const row = await query(server.superuser, "select rolpassword from pg_authid where rolname = 'postgres'");
    expect(row).toEqual({ rolpassword: null });
    const other = await query(
      server.superuser,
      "select rolpassword from pg_authid where rolname = 'someone'",
    );
    expect(other["rolpassword"]).toMatch(/^SCRAM-SHA-256\$/);
  });

  it("refuses a second start on its folder, and names the process", async () => {
    await expect(startPostgres({ directory, port: 0 })).rejects.toMatchObject({
      code: "already_running",
      message: expect.stringContaining(`process ${process.pid}`),
    });
    expect(await query(server.superuser, "select 1 as still")).toEqual({ still: 1 });
  });

  it.skipIf(!isRoot)("runs as a user who is not root (needs root)", () => {
    expect(uidOf(postmasterPid(directory))).toBe(serverAccount(join(directory, "data"))?.uid);
    expect(uidOf(postmasterPid(directory))).not.toBe(0);
  });
});

describe("starting and stopping", () => {
  afterEach(cleanUp);

  it("stops for good, as often as it is told, and starts again with its data", async () => {
    const directory = newCluster();
    const server = await start({ directory });
    await query(server.superuser, "create table kept as select 42 as answer");
    const pid = postmasterPid(directory);
    await Promise.all([server.stop(), server.stop()]);
    expect(startOf(pid)).toBeUndefined();
    expect(lockOf(directory)).toBeUndefined();

    const again = await start({ directory });
    expect(again).toMatchObject({ reused: false, dataDirectory: server.dataDirectory });
    expect(await query(again.superuser, "select answer from kept")).toEqual({ answer: 42 });
  });

  it("survives the kill of Node and its terminal, and is reused with its data", async () => {
    const directory = newCluster();
    const node = await startElsewhere(directory, "started");
    await expect(startPostgres({ directory, port: 0 })).rejects.toMatchObject({
      code: "already_running",
      detail: { pid: node },
    });
    const postmaster = postmasterPid(directory);
    await killGroup(node);

    const lines: string[] = [];
    const server = await start({ directory, log: (line) => lines.push(line) });
    expect(server.reused).toBe(true);
    expect(lines.join()).toContain(`process ${postmaster}`);
    expect(postmasterPid(directory)).toBe(postmaster);
    expect(await query(server.superuser, "select inet_server_port() is null as by_socket")).toEqual({
      by_socket: true,
    });
    await server.stop();
    await gone(postmaster);
  });

  it("recovers what was committed before the server itself was killed", async () => {
    const directory = newCluster();
    const first = await start({ directory });
    await query(first.superuser, "create table kept as select 42 as answer");
    const pid = postmasterPid(directory);
    process.kill(pid, "SIGKILL");
    await gone(pid);
    await first.stop();

    const server = await start({ directory });
    expect(server.reused).toBe(false);
    expect(await query(server.superuser, "select answer from kept")).toEqual({ answer: 42 });
  });

  it("starts where another program has the pid of a killed server by now, and spares it", async () => {
    const directory = newCluster();
    const first = await start({ directory });
    const pid = postmasterPid(directory);
    process.kill(pid, "SIGKILL");
    await gone(pid);
    await first.stop();
    const other = spawn("sleep", ["60"], {
      ...runAs(serverAccount(join(directory, "data"))),
      detached: true,
    });
    children.push(other);
    await once(other, "spawn");
    const file = join(directory, "data/postmaster.pid");
    fs.writeFileSync(file, fs.readFileSync(file, "utf8").replace(/^\d+/, String(other.pid)));

    await start({ directory });
    expect(postmasterPid(directory)).not.toBe(other.pid);
    expect(startOf(other.pid!)).toBeDefined();
  });

  it("ends a server that nobody can reach any more, and starts another", async () => {
    const directory = newCluster();
    await killGroup(await startElsewhere(directory, "started"));
    const mute = postmasterPid(directory);
    fs.rmSync(join(directory, "run"), { recursive: true });

    const server = await start({ directory });
    expect(server.reused).toBe(false);
    expect(startOf(mute)).toBeUndefined();
  });

  it("starts after a kill in the middle of initdb", async () => {
    const directory = newDirectory();
    const node = await startElsewhere(directory, "begun");
    await vi.waitFor(() => expect(listing(directory).join()).toContain("/global"), {
      timeout: 10_000,
      interval: 2,
    });
    await killGroup(node);
    expect(fs.existsSync(join(directory, "data"))).toBe(false);

    await start({ directory });
    expect(fs.readdirSync(directory).filter((name) => name.startsWith("data"))).toEqual(["data"]);
  });

  it("ends what it has begun when the start is given up", async () => {
    const directory = newDirectory();
    const abort = new AbortController();
    const starting = startPostgres({ directory, port: 0, signal: abort.signal });
    await vi.waitFor(() => expect(fs.existsSync(join(directory, "postgres.log"))).toBe(true), {
      interval: 2,
    });
    abort.abort();
    await expect(starting).rejects.toMatchObject({ name: "AbortError" });
    expect(fs.readdirSync(directory)).toEqual(["postgres.log"]);
  });

  it("takes over the lock of a process that has ended, and a damaged one", async () => {
    const directory = newCluster();
    fs.writeFileSync(join(directory, "holdfast.pid.7"), `${process.pid} 1 another boot\n`);
    await (await start({ directory })).stop();
    expect(lockOf(directory)).toBeUndefined();
    fs.writeFileSync(join(directory, "holdfast.pid.8"), "");
    await start({ directory });
    expect(lockOf(directory)).toContain(`${process.pid} `);
  });

  it("gives a stale lock to one of many who want it at the same moment", async () => {
    const base = dirname(newDirectory());
    const rounds = Array.from({ length: 30 }, (_, round) => join(base, `${round}`));
    for (const folder of rounds) {
      fs.mkdirSync(folder);
      fs.writeFileSync(join(folder, "holdfast.pid.1"), "999999 1 another boot\n");
    }
    const source = pathToFileURL(join(import.meta.dirname, "../src/postgres/lock.ts"));
    const script = `
      import { lockDirectory } from "${source}";
      const [begin, ...folders] = process.argv.slice(1);
      for (const [round, folder] of folders.entries()) {
        while (Date.now() < Number(begin) + round * 20);
        try { lockDirectory(folder); console.log(folder); } catch (error) {
          if (error.code !== "already_running") console.log(error);
        }
      }
      console.log("done");
      setInterval(() => {}, 1000);`;
    const begin = String(Date.now() + 1_000);
    const outputs = Array.from({ length: 4 }, async () => {
      const args = ["--input-type=module", "-e", script, begin, ...rounds];
      const child = spawn(process.execPath, args, { detached: true, stdio: ["ignore", "pipe", "inherit"] });
      children.push(child);
      let output = "";
      for await (const text of child.stdout.setEncoding("utf8")) {
        output += text;
        if (output.endsWith("done\n")) break;
      }
      return output.split("\n").filter((line) => line !== "" && line !== "done");
    });
    expect((await Promise.all(outputs)).flat().sort()).toEqual(rounds.toSorted());
  });

  it("takes a free port when another program has the wanted one, says so, and stays there", async () => {
    const directory = newCluster();
    const other = createServer().listen(0, "127.0.0.1");
    await once(other, "listening");
    const wanted = (other.address() as { port: number }).port;
    const lines: string[] = [];
    const first = await start({ directory, port: wanted, log: (line) => lines.push(line) });
    expect(first.port).not.toBe(wanted);
    expect(lines.join()).toContain(`port ${first.port}, not on ${wanted}, for another program has it`);
    await first.stop();

    other.close();
    const second = await start({ directory, port: wanted });
    expect(second.port).toBe(first.port);
  });

  it("quotes the log when the server does not start, and leaves the folder free", async () => {
    const directory = newCluster();
    await expect(
      startPostgres({ directory, port: 0, settings: { work_mem: "plenty" } }),
    ).rejects.toMatchObject({
      code: "postgres_failed",
      message: expect.stringMatching(/invalid value for parameter "work_mem".*postgres\.log/s),
    });
    await start({ directory });
  });
});

describe("what it refuses", () => {
  afterEach(cleanUp);

  it("a folder of another major version, in which nothing is changed", async () => {
    const directory = newCluster();
    const server = await start({ directory });
    await server.stop();
    fs.writeFileSync(join(server.dataDirectory, "PG_VERSION"), "17\n");
    const before = listing(server.dataDirectory);
    await expect(startPostgres({ directory, port: 0 })).rejects.toMatchObject({
      code: "data_directory_version",
      message: expect.stringMatching(/\.holdfast\/data was made by PostgreSQL 17, this is 18/),
      hint: expect.stringContaining("HOLDFAST_DIR"),
    });
    expect(listing(server.dataDirectory)).toEqual(before);
  });

  it("a folder that holds something else, in which nothing is changed", async () => {
    const directory = newDirectory();
    fs.mkdirSync(join(directory, "data"), { recursive: true });
    fs.writeFileSync(join(directory, "data/thesis.txt"), "years of work");
    await expect(startPostgres({ directory, port: 0 })).rejects.toMatchObject({
      code: "config_invalid",
      message: expect.stringContaining("not a PostgreSQL data folder"),
    });
    expect(listing(directory)).toEqual([join(directory, "data"), join(directory, "data/thesis.txt")]);
  });

  it("a machine that the binaries are not made for", () => {
    const refusal = expect.objectContaining({
      code: "postgres_unsupported",
      hint: expect.stringContaining("DATABASE_URL"),
    });
    const refused = [
      { platform: "darwin", arch: "arm64", glibc: undefined },
      { platform: "linux", arch: "s390x", glibc: "2.36" },
      { platform: "linux", arch: "x64", glibc: undefined },
    ];
    for (const machine of refused) expect(() => embeddedPackage(machine)).toThrow(refusal);
    // npm installs the package of this machine alone.
    const other = process.arch === "x64" ? "arm64" : "x64";
    expect(() => embeddedPackage({ platform: "linux", arch: other, glibc: "2.36" })).toThrow(/not installed/);
  });

  it("binaries that are not there or do not run", async () => {
    const directory = newDirectory();
    const broken = join(dirname(directory), "package");
    fs.mkdirSync(join(broken, "native/bin"), { recursive: true });
    fs.writeFileSync(join(broken, "native/bin/postgres"), "#!/bin/sh\necho broken >&2; exit 3\n", {
      mode: 0o755,
    });
    fs.writeFileSync(join(broken, "package.json"), `{ "version": "0-broken-${process.pid}" }`);
    try {
      for (const [packageFolder, why] of [
        [join(broken, "nothing"), /ENOENT/],
        [broken, /broken/],
      ] as const) {
        await expect(startPostgres({ directory, port: 0, packageFolder })).rejects.toMatchObject({
          code: "postgres_unsupported",
          message: expect.stringMatching(why),
          hint: expect.stringContaining("DATABASE_URL"),
        });
      }
    } finally {
      fs.rmSync(join(SHARED_FOLDER, `postgres-0-broken-${process.pid}`), { recursive: true, force: true });
    }
  });

  it("a folder that cannot be made, with the reason", async () => {
    const directory = newDirectory();
    fs.writeFileSync(directory, "a file");
    await expect(startPostgres({ directory, port: 0 })).rejects.toMatchObject({
      code: "postgres_failed",
      message: expect.stringContaining("EEXIST"),
      hint: expect.stringContaining("HOLDFAST_DIR"),
    });
  });
});

describe("where the folder is", () => {
  afterEach(cleanUp);

  it("may have a name that is long, and one that PostgreSQL and the shell find odd", async () => {
    const directory = newCluster(`${newDirectory()} a, "b' ü $x ${"long ".repeat(18)}`);
    const server = await start({ directory });
    expect(server.dataDirectory).toBe(join(directory, "data"));
    expect(server.superuser.host.length).toBeLessThan(60);
    expect(fs.statSync(server.superuser.host).mode & 0o777).toBe(0o700);
    expect(await query(server.superuser, "select 1 as one")).toEqual({ one: 1 });
    await server.stop();
    fs.rmdirSync(server.superuser.host);
  });

  it("gets no socket in a folder that others could have prepared", () => {
    const sockets = newDirectory();
    fs.mkdirSync(sockets, { mode: 0o777 });
    const place = { data: join(sockets, "data"), sockets };
    expect(() => socketFolder(place, serverAccount(place.data))).toThrow(/is for the server's socket/);
  });

  it.skipIf(!isRoot)(
    "may be closed to the server's user, whose data are then in /var/lib (needs root)",
    async () => {
      const directory = newDirectory();
      fs.chmodSync(dirname(directory), 0o700);
      const lines: string[] = [];
      const first = await start({ directory, log: (line) => lines.push(line) });
      expect(first.dataDirectory).toMatch(new RegExp(`^${SHARED_FOLDER}/[0-9a-f]{12}-\\w{6}/data$`));
      expect(lines.join()).toContain(first.dataDirectory);
      await query(first.superuser, "create table kept as select 42 as answer");
      await first.stop();

      const second = await start({ directory });
      expect(second.dataDirectory).toBe(first.dataDirectory);
      expect(await query(second.superuser, "select answer from kept")).toEqual({ answer: 42 });
    },
  );

  it.skipIf(!isRoot)(
    "must not be closed to the user whom the data in it belong to (needs root)",
    async () => {
      const directory = newCluster();
      fs.chmodSync(dirname(directory), 0o700);
      await expect(startPostgres({ directory, port: 0 })).rejects.toMatchObject({
        code: "postgres_failed",
        message: expect.stringContaining(`${directory}/data cannot be reached by the user`),
      });
      fs.chmodSync(dirname(directory), 0o755);
      await start({ directory });
    },
  );

  it.skipIf(!isRoot)("copies binaries that the server's user cannot read (needs root)", async () => {
    const directory = newCluster();
    const closed = join(dirname(directory), "closed");
    fs.mkdirSync(closed, { mode: 0o700 });
    fs.cpSync(embeddedPackage(), closed, { recursive: true, verbatimSymlinks: true });
    // As npm under a strict umask and with --ignore-scripts leaves them.
    spawnSync("sh", ["-c", 'chmod -R go= "$1" && find "$1" -type l -delete', "sh", closed]);
    const version = `0-test-${process.pid}`;
    fs.writeFileSync(join(closed, "package.json"), JSON.stringify({ version }));
    const copy = join(SHARED_FOLDER, `postgres-${version}`);
    try {
      const lines: string[] = [];
      const server = await start({ directory, packageFolder: closed, log: (line) => lines.push(line) });
      const command = fs.readFileSync(`/proc/${postmasterPid(directory)}/cmdline`, "utf8");
      expect(command).toContain(join(copy, "bin/postgres"));
      expect(lines.join()).toContain(copy);
      await server.stop();
    } finally {
      fs.rmSync(copy, { recursive: true, force: true });
    }
  });

  it.skipIf(!isRoot)(
    "may belong to an ordinary user, who stays its owner when root starts it (needs root)",
    async () => {
      const directory = newCluster();
      const nobody = { name: "nobody", uid: 65534, gid: 65534 };
      const first = await start({ directory });
      await first.stop();
      spawnSync("chown", ["-R", String(nobody.uid), directory]);
      await start({ directory });
      expect(uidOf(postmasterPid(directory))).toBe(nobody.uid);
    },
  );
});
