// Debian's PgBouncer before the test server, in transaction mode, with as few connections of its own as a test wants.
import { spawn } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import type { Readable } from "node:stream";
import { TEST_PASSWORD, type TestServer } from "./constants.ts";

/** A pooler that runs. */
export type Pooler = { port: number; stop(): Promise<void> };

const START_MS = 10_000;
const STOP_MS = 5_000;
const LOGINS = ["holdfast_service", "holdfast_worker"];
/** It refuses to be root: then it is `nobody`. */
const NOBODY = 65_534;

/** Where PgBouncer is on this machine; undefined where it is not. */
export function pgbouncerPath(): string | undefined {
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin"];
  return folders.map((folder) => join(folder, "pgbouncer")).find((path) => fs.existsSync(path));
}

/** Starts it with `connections` to the server for each login and database. Its settings ignore no startup parameter. */
export async function startPooler(
  server: Pick<TestServer, "host" | "port">,
  connections: number,
): Promise<Pooler> {
  const identity = process.getuid?.() === 0 ? { uid: NOBODY, gid: NOBODY } : {};
  const folder = fs.mkdtempSync(join(tmpdir(), "holdfast-pooler-"));
  const port = await freePort();
  write(join(folder, "users.txt"), LOGINS.map((login) => `"${login}" "${TEST_PASSWORD}"\n`).join(""));
  write(
    join(folder, "pgbouncer.ini"),
    `[databases]
* = host=${server.host} port=${server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = ${join(folder, "users.txt")}
pool_mode = transaction
default_pool_size = ${connections}
query_wait_timeout = 20
`,
  );
  if (identity.uid !== undefined) fs.chownSync(folder, NOBODY, NOBODY);

  const program = pgbouncerPath() ?? "pgbouncer";
  const child = spawn(program, [join(folder, "pgbouncer.ini")], {
    ...identity,
    cwd: "/",
    stdio: ["ignore", "ignore", "pipe"],
  });
  const ended = once(child, "close");
  const stop = async () => {
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
    await ended;
    clearTimeout(timer);
    fs.rmSync(folder, { recursive: true });
  };
  await isUp(child.stderr, ended).catch(async (error: unknown) => {
    await stop();
    throw error;
  });
  return { port, stop };
}

function write(path: string, text: string): void {
  fs.writeFileSync(path, text, { mode: 0o600 });
  if (process.getuid?.() === 0) fs.chownSync(path, NOBODY, NOBODY);
}

/** Resolves when it takes connections; rejects with all that it said when it ends before, or is late. */
function isUp(stderr: Readable, ended: Promise<unknown>): Promise<void> {
  let said = "";
  return new Promise((resolve, reject) => {
    stderr.setEncoding("utf8").on("data", (text: string) => {
      said += text;
      if (/process up/.test(said)) resolve();
    });
    ended.then(() => reject(new Error(`pgbouncer ended: ${said}`)), reject);
    setTimeout(() => reject(new Error(`pgbouncer is not up: ${said}`)), START_MS).unref();
  });
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const address = probe.address();
  probe.close();
  return typeof address === "object" ? (address?.port ?? 0) : 0;
}
