// The two programs of the embedded PostgreSQL: initdb, which makes a cluster, and postgres, which serves it.
import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import * as fs from "node:fs";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../errors.ts";
import { type Account, type Binaries, runAs } from "./host.ts";
import { startOf } from "./lock.ts";
import { socketFolder } from "./place.ts";
import { ask, endPostmaster, type Postmaster, refuseToWaitLonger, superuserOf } from "./postmaster.ts";

const POLL_MS = 30;
const INITDB_TIMEOUT_MS = 120_000;
const LOG_TAIL_LINES = 12;

/** On the command line, so that they are the same for an old folder; `alter system` sets any other. */
const SETTINGS = {
  shared_buffers: "128MB",
  max_connections: "100",
  fsync: "on",
  password_encryption: "scram-sha-256",
  jit: "off", // Our statements are short: compiling takes longer than it saves.
  timezone: "UTC",
  log_timezone: "UTC",
  lc_messages: "C",
  log_min_messages: "warning",
  log_line_prefix: "%m [%p] %q%u@%d ",
};

const INITDB_OPTIONS = [
  "--username=postgres",
  "--encoding=UTF8",
  "--locale-provider=builtin",
  "--builtin-locale=C.UTF-8",
  "--auth-local=trust",
  "--auth-host=reject",
  "--no-instructions",
];

const HBA = `# The socket's folder is closed to all but the server's own user and root.
# TYPE  DATABASE  USER      ADDRESS       METHOD
local   all       postgres                trust
local   all       all                     scram-sha-256
host    all       postgres  all           reject
host    all       all       127.0.0.1/32  scram-sha-256
host    all       all       ::1/128       scram-sha-256
`;

/** A cluster, made or to be made, and what serves it. `directory` has the log. */
export type Cluster = {
  directory: string;
  data: string;
  sockets: string;
  account: Account | undefined;
  binaries: Binaries;
  settings: Record<string, string>;
  signal: AbortSignal | undefined;
};

/**
 * Runs initdb, under another name until the cluster is whole: one that is killed half-way leaves nothing that
 * looks like a cluster. What such a one has left is removed. Throws `postgres_failed`, quoting the log.
 */
export async function createCluster(cluster: Cluster): Promise<void> {
  const { data, account, binaries, signal } = cluster;
  const draft = `${data}.new-${process.pid}`;
  for (const name of fs.readdirSync(dirname(data))) {
    if (name.startsWith(`${basename(data)}.new-`)) remove(join(dirname(data), name));
  }
  fs.mkdirSync(draft, { mode: 0o700 });
  try {
    if (account !== undefined) fs.chownSync(draft, account.uid, account.gid);
    const args = [`--pgdata=${draft}`, ...INITDB_OPTIONS];
    const child = begin(cluster, binaries.initdb, args, { timeout: INITDB_TIMEOUT_MS, signal });
    const failure = await child.ended;
    signal?.throwIfAborted();
    if (failure !== undefined) throw failed(`initdb ${failure}`, child.tail());
    fs.writeFileSync(join(draft, "pg_hba.conf"), HBA, { flush: true });
    fs.renameSync(draft, data);
  } catch (error) {
    remove(draft);
    throw error;
  }
}

/**
 * Starts postgres on the TCP port and resolves once it accepts connections. It is detached from the terminal,
 * whose Ctrl-C is for us: we end the server after our own work. Throws `postgres_failed`, quoting the log.
 */
export async function launch(cluster: Cluster, port: number): Promise<Postmaster> {
  const { data, account, binaries, signal } = cluster;
  const sockets = socketFolder(cluster, account);
  const settings = {
    ...SETTINGS,
    ...cluster.settings,
    listen_addresses: "127.0.0.1",
    port: String(port),
    unix_socket_directories: `"${sockets.replaceAll('"', '""')}"`,
    unix_socket_permissions: "0700",
  };
  const args = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  const child = begin(cluster, binaries.postgres, ["-D", data, ...args], { detached: true });
  let failure: string | undefined;
  void child.ended.then((reason) => {
    failure = reason ?? "ended";
  });
  const since = Date.now();
  try {
    while ((await ask(superuserOf({ sockets, port }))) !== "ready") {
      if (failure !== undefined) throw failed(`PostgreSQL ${failure}`, child.tail());
      refuseToWaitLonger(data, since);
      await sleep(POLL_MS, undefined, { signal });
    }
    return { ...child.process, port, sockets };
  } catch (error) {
    if (signal?.aborted) await endPostmaster(child.process);
    throw error;
  }
}

/** Starts a program as the cluster's account, with its output in `<directory>/postgres.log`. */
function begin({ directory, account }: Cluster, program: string, args: string[], options: SpawnOptions = {}) {
  const path = join(directory, "postgres.log");
  const file = fs.openSync(path, "a", 0o600);
  const before = fs.fstatSync(file).size;
  try {
    const child = spawn(program, args, { ...runAs(account), ...options, stdio: ["ignore", file, file] });
    if (options.detached) child.unref();
    const pid = child.pid ?? 0;
    return {
      process: { pid, start: startOf(pid) },
      ended: failureOf(child),
      tail: () => {
        const lines = fs.readFileSync(path).subarray(before).toString("utf8").trimEnd().split("\n");
        return [...lines.slice(-LOG_TAIL_LINES), `(${path})`].join("\n");
      },
    };
  } finally {
    fs.closeSync(file);
  }
}

/** Why the child ended, or undefined when it ended well. One that cannot be started has ended too. */
function failureOf(child: ChildProcess): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  child.once("error", (error) => resolve(`could not be started: ${error.message}`));
  child.once("exit", (code, signal) =>
    resolve(code === 0 ? undefined : `ended with ${signal ?? `code ${code}`}`),
  );
  return promise;
}

function remove(folder: string): void {
  // An initdb that has lost its parent may still write into it.
  fs.rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
}

function failed(what: string, log: string): AppError {
  return new AppError("postgres_failed", {
    message: `${what}:\n${log}`,
    hint: "Correct what the log complains about, or set DATABASE_URL to a server of your own.",
  });
}
