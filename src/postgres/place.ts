// Where the embedded server's data and socket are: in the folder asked for, or where its user can go.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { AppError } from "../errors.ts";
import { type Account, type Log, makeEnterable, runAs, SHARED_FOLDER } from "./host.ts";

/** Of the 107 bytes that a socket's path may have, what is left for its folder. */
const SOCKET_FOLDER_BYTES = 107 - "/.s.PGSQL.65535".length;

/** The folders of the cluster and, if its path is short enough, of its socket. */
export type Place = { data: string; sockets: string };

/**
 * `<directory>/data` and `<directory>/run`. Where the account (see `serverAccount`) cannot enter the
 * directory, `data` becomes a link into a new folder of /var/lib/holdfast, which then holds both. Throws
 * `postgres_failed` when data that exist are out of the account's reach.
 */
export function placeFor(directory: string, account: Account | undefined, log: Log): Place {
  const data = join(directory, "data");
  const found = fs.statSync(data, { throwIfNoEntry: false });
  if (account === undefined || admit(directory, account)) {
    return { data: found === undefined ? data : fs.realpathSync(data), sockets: join(directory, "run") };
  }

  const entry = fs.lstatSync(data, { throwIfNoEntry: false });
  if (entry === undefined) fs.symlinkSync(join(newSharedFolder(directory, log), "data"), data);
  else if (!entry.isSymbolicLink()) throw outOfReach(data, account);
  const target = resolve(directory, fs.readlinkSync(data));
  makeEnterable(dirname(target));
  if (!canEnter(dirname(target), account)) throw outOfReach(target, account);
  log(`The user ${account.name} cannot enter ${directory}, so the data are in ${target}.`);
  return { data: target, sockets: join(dirname(target), "run") };
}

/**
 * Whether the folder holds a cluster that the server can serve; false when it is empty or not there. Throws
 * `data_directory_version` for one of another major version, `config_invalid` when it holds something else,
 * and `postgres_failed` when it belongs to another user. Changes nothing.
 */
export function holdsCluster(data: string, major: string, account: Account | undefined): boolean {
  const found = fs.statSync(data, { throwIfNoEntry: false });
  if (found === undefined) return false;
  if (account === undefined && found.uid !== process.getuid?.()) throw foreign(data, found.uid);
  const names = fs.readdirSync(data);
  if (names.length === 0) return false;
  if (!names.includes("PG_VERSION")) {
    throw new AppError("config_invalid", {
      message: `${data} is not empty and not a PostgreSQL data folder; nothing in it was changed`,
      hint: "Move it away, or set HOLDFAST_DIR to another folder.",
      detail: { folder: data },
    });
  }
  const version = fs.readFileSync(join(data, "PG_VERSION"), "utf8").trim();
  if (version !== major) throw otherVersion(data, version, major);
  if (account !== undefined && found.uid !== account.uid) throw foreign(data, found.uid);
  return true;
}

/**
 * A folder of mode 0700 that belongs to the server's user and where a socket's path is short enough: the
 * place's own, else one in /run (root) or the temporary folder, the same for the same data. Throws
 * `postgres_failed` when it was there already and another user owns it or can open it.
 */
export function socketFolder({ data, sockets }: Place, account: Account | undefined): string {
  const fits = Buffer.byteLength(sockets) <= SOCKET_FOLDER_BYTES;
  const folder = fits
    ? sockets
    : join(account === undefined ? tmpdir() : "/run", `holdfast-${digestOf(data)}`);
  try {
    fs.mkdirSync(folder, { mode: 0o700 });
    if (account !== undefined) fs.chownSync(folder, account.uid, account.gid);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
  const entry = fs.lstatSync(folder);
  const own = account?.uid ?? process.getuid?.();
  if (entry.isDirectory() && entry.uid === own && (entry.mode & 0o077) === 0) return folder;
  const mode = (entry.mode & 0o7777).toString(8);
  throw new AppError("postgres_failed", {
    message: `${folder} is for the server's socket, but user ${entry.uid} owns it and its mode is ${mode}`,
    hint: "Remove it, or set HOLDFAST_DIR to another folder.",
    detail: { folder, uid: entry.uid, mode },
  });
}

/** Whether the account may pass through the folder. One of root's is opened for passing, not for reading. */
function admit(directory: string, account: Account): boolean {
  if (canEnter(directory, account)) return true;
  const { uid, mode } = fs.statSync(directory);
  if (uid !== 0 || !canEnter(dirname(directory), account)) return false;
  fs.chmodSync(directory, mode | 0o011);
  return canEnter(directory, account);
}

/** The kernel's own answer: modes, ACLs and mount options count. */
function canEnter(folder: string, account: Account): boolean {
  return (
    spawnSync("/bin/sh", ["-c", 'cd -- "$1"', "sh", folder], { ...runAs(account), timeout: 10_000 })
      .status === 0
  );
}

/** The name is new each time: who removes the directory begins anew, and does not meet the data of before. */
function newSharedFolder(directory: string, log: Log): string {
  makeEnterable(SHARED_FOLDER);
  const name = digestOf(directory);
  const older = fs.readdirSync(SHARED_FOLDER).filter((each) => each.startsWith(`${name}-`));
  if (older.length > 0) log(`${SHARED_FOLDER} has data of an earlier ${directory}: ${older.join(", ")}.`);
  const folder = fs.mkdtempSync(join(SHARED_FOLDER, `${name}-`));
  fs.chmodSync(folder, 0o711);
  return folder;
}

function digestOf(path: string): string {
  return createHash("sha256").update(path).digest("hex").slice(0, 12);
}

function otherVersion(data: string, version: string, major: string): AppError {
  return new AppError("data_directory_version", {
    message: `${data} was made by PostgreSQL ${version}, this is ${major}; nothing in it was changed`,
    hint:
      `Dump it with a server of version ${version} and load the dump into a new folder; ` +
      "or begin anew: move it away, or set HOLDFAST_DIR to another folder.",
    detail: { folder: data, found: version, wanted: major },
  });
}

function foreign(data: string, uid: number): AppError {
  const asOwner =
    uid === 0 ? "Give it to a user who is not root (chown -R)" : "Start as that user or as root";
  return new AppError("postgres_failed", {
    message: `${data} belongs to user ${uid}, and a server can serve its own user's data alone`,
    hint: `${asOwner}, or set HOLDFAST_DIR to another folder.`,
    detail: { folder: data, uid },
  });
}

function outOfReach(data: string, account: Account): AppError {
  return new AppError("postgres_failed", {
    message: `${data} cannot be reached by the user ${account.name}, whom the server runs as`,
    hint: "Let that user pass through the folders above it (chmod o+x), or set HOLDFAST_DIR to another.",
    detail: { folder: data, user: account.name },
  });
}
