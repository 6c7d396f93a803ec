// A postmaster that runs on a data folder: found by its pid file, asked over its socket, ended by signals.
import * as fs from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { AppError } from "../errors.ts";
import { startOf } from "./lock.ts";

const CANNOT_CONNECT_NOW = "57P";
const POLL_MS = 30;
const ASK_TIMEOUT_MS = 2_000;
const STARTING_TIMEOUT_MS = 60_000;
const SILENCE_TIMEOUT_MS = 5_000;
/** Fast: sessions end, a checkpoint is written. Then immediate: the next start recovers. */
const ENDINGS = [
  { signal: "SIGINT", patienceMs: 30_000 },
  { signal: "SIGQUIT", patienceMs: 15_000 },
] as const;

/** `start` tells it from a later process with the same pid; undefined: it has ended already. */
export type Postmaster = { pid: number; start: string | undefined; port: number; sockets: string };

/** How to connect as the superuser: over the socket, in a folder for the server's user and root alone. */
export type Superuser = { host: string; port: number; user: "postgres"; database: "postgres"; ssl: false };

/** The superuser's pg ClientConfig for a server with its socket in the folder. */
export function superuserOf({ sockets, port }: { sockets: string; port: number }): Superuser {
  return { host: sockets, port, user: "postgres", database: "postgres", ssl: false };
}

/**
 * The living postmaster of the data folder, or undefined. The pid file alone proves nothing, for after a
 * crash its pid may be another program's: the process must be the data's owner's and work in the folder.
 */
export function postmasterOf(data: string): Postmaster | undefined {
  const { pid, port, sockets } = pidFile(data) ?? {};
  if (pid === undefined) return undefined;
  const start = startOf(pid);
  if (start === undefined || !worksIn(pid, data)) return undefined;
  return { pid, start, port: port ?? 0, sockets: sockets ?? "" };
}

/**
 * Waits until the data folder's postmaster, if one lives, accepts connections; undefined when there is none
 * or no more. One that does not answer at all for 5 s is ended. Throws `postgres_failed` when it still
 * recovers after 60 s.
 */
export async function awaitRunning(data: string, signal?: AbortSignal): Promise<Postmaster | undefined> {
  const since = Date.now();
  let silentSince = since;
  for (;;) {
    const found = postmasterOf(data);
    if (found === undefined) return undefined;
    const answer = await ask(superuserOf(found));
    if (answer === "ready") return found;
    refuseToWaitLonger(data, since);
    if (answer === "starting") silentSince = Date.now();
    else if (Date.now() - silentSince > SILENCE_TIMEOUT_MS) await endPostmaster(found);
    await sleep(POLL_MS, undefined, { signal });
  }
}

/** Ends it, fast or else at once, and resolves when it is gone. Throws `postgres_failed` when it stays. */
export async function endPostmaster({ pid, start }: Pick<Postmaster, "pid" | "start">): Promise<void> {
  const lives = () => start !== undefined && startOf(pid) === start;
  for (const { signal, patienceMs } of ENDINGS) {
    const deadline = Date.now() + patienceMs;
    if (lives()) send(signal, pid);
    while (lives() && Date.now() < deadline) await sleep(POLL_MS);
  }
  if (!lives()) return;
  throw new AppError("postgres_failed", {
    message: `PostgreSQL (process ${pid}) does not end`,
    hint: `See what it waits for in /proc/${pid}/status. Do not remove its files while it lives.`,
    detail: { pid },
  });
}

function send(signal: NodeJS.Signals, pid: number): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/**
 * Removes the pid file of a postmaster that has ended, where its pid is in use again: PostgreSQL would take
 * the other process for its own. Where the pid is free it recovers by itself. (Shared memory that is still in
 * use stops it in either case.)
 */
export function clearStalePid(data: string): void {
  const file = pidFile(data);
  if (file === undefined || postmasterOf(data) !== undefined) return;
  const inUse = file.pid === undefined || fs.existsSync(`/proc/${file.pid}`);
  if (inUse) fs.rmSync(join(data, "postmaster.pid"), { force: true });
}

/** What the server says to a new connection: welcome, not yet or no more, nothing. Throws any other word. */
export async function ask(superuser: Superuser): Promise<"ready" | "starting" | "silent"> {
  if (!superuser.host.startsWith("/")) return "silent"; // The pid file has no socket yet.
  const client = new pg.Client({ ...superuser, connectionTimeoutMillis: ASK_TIMEOUT_MS });
  client.on("error", () => {}); // It is told by connect() too; without a listener it would end this process.
  try {
    await client.connect();
    return "ready";
  } catch (error) {
    if (!(error instanceof pg.DatabaseError)) return "silent";
    if (error.code?.startsWith(CANNOT_CONNECT_NOW)) return "starting";
    throw error;
  } finally {
    await client.end().catch(() => {});
  }
}

/**
 * Throws `postgres_failed` once a server has been starting for 60 s. It goes on, for recovery begun anew
 * takes longer.
 */
export function refuseToWaitLonger(data: string, since: number): void {
  if (Date.now() - since < STARTING_TIMEOUT_MS) return;
  throw new AppError("postgres_failed", {
    message: `PostgreSQL on ${data} accepts no connections after ${STARTING_TIMEOUT_MS / 1000} s`,
    hint: "It still recovers, and goes on by itself: start again a little later.",
    detail: { folder: data },
  });
}

function pidFile(data: string): { pid?: number; port?: number; sockets?: string } | undefined {
  try {
    const [pid, , , port, sockets] = fs.readFileSync(join(data, "postmaster.pid"), "utf8").split("\n");
    return { ...(Number(pid) > 1 && { pid: Number(pid) }), port: Number(port ?? 0), sockets: sockets ?? "" };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Root in a container may not see where other users' processes work; their command line it may. */
function worksIn(pid: number, data: string): boolean {
  try {
    if (fs.statSync(`/proc/${pid}`).uid !== fs.statSync(data).uid) return false;
    const words = fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    if (basename(words[0] ?? "") !== "postgres") return false;
    return words.includes(data) || fs.readlinkSync(`/proc/${pid}/cwd`) === fs.realpathSync(data);
  } catch {
    return false;
  }
}
