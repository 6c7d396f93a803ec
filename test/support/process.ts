// Programs of the project as a user runs them: real processes, what they print, and their end.
import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { withClient } from "../../src/migrate.ts";
import { SHARED_FOLDER } from "../../src/postgres/host.ts";
import { startOf } from "../../src/postgres/lock.ts";
import { postmasterOf, superuserOf } from "../../src/postgres/postmaster.ts";
import { startPostgres } from "../../src/postgres.ts";

/** The top of the project. */
export const PROJECT = resolve(import.meta.dirname, "../..");

/** How a process ended, and all that it printed. */
export type Ended = {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  ms: number;
};

/** A process that runs, with its group. */
export type Running = {
  child: ChildProcess;
  pid: number;
  stdout(): string;
  stderr(): string;
  /** Waits until one of its two streams has brought this; throws when it ends before, or after 60 s. */
  seen(pattern: RegExp): Promise<RegExpExecArray>;
  ended: Promise<Ended>;
};

const PATIENCE_MS = 60_000;
const processes: Running[] = [];
const folders: string[] = [];

/** Settings that a test gives; nothing of our own environment but what npm and node cannot do without. */
export type Environment = Record<string, string>;

/** Every setting, empty, which counts as absent: so that a developer's own .env does not come in. */
const UNSET: Environment = Object.fromEntries(
  [...fs.readFileSync(join(PROJECT, ".env.example"), "utf8").matchAll(/^#([A-Z_]+)=/gm)].map((match) => [
    match[1] ?? "",
    "",
  ]),
);

function environment(given: Environment): NodeJS.ProcessEnv {
  const path = [join(PROJECT, "node_modules/.bin"), process.env["PATH"]].join(delimiter);
  return { PATH: path, HOME: process.env["HOME"] ?? "/", LANG: "C.UTF-8", ...UNSET, ...given };
}

/** Starts a program in a process group of its own, as a shell on a terminal does. */
export function run(
  command: string,
  args: string[],
  given: Environment = {},
  options: SpawnOptions = {},
): Running {
  const child = spawn(command, args, {
    cwd: PROJECT,
    env: environment(given),
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
    ...options,
  });
  const since = performance.now();
  const printed: Printed = { stdout: "", stderr: "", closed: false };
  for (const stream of ["stdout", "stderr"] as const) {
    child[stream]?.setEncoding("utf8").on("data", (text: string) => {
      printed[stream] += text;
      child.emit("printed");
    });
  }
  const ended = new Promise<Ended>((fulfil, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => {
      printed.closed = true;
      const { stdout, stderr } = printed;
      fulfil({ code, signal, stdout, stderr, ms: performance.now() - since });
      child.emit("printed");
    });
  });
  ended.catch(() => {}); // awaited by whoever wants to know
  const running: Running = {
    child,
    pid: child.pid ?? 0,
    stdout: () => printed.stdout,
    stderr: () => printed.stderr,
    seen: (pattern) => seen(child, printed, pattern),
    ended,
  };
  processes.push(running);
  return running;
}

/** Starts `node src/main.ts …`, without npm in between: its pid is the program's. */
export function runNode(args: string[], given: Environment = {}, options: SpawnOptions = {}): Running {
  return run("node", ["src/main.ts", ...args], given, options);
}

/** Starts `npm start --silent -- …`. */
export function runNpmStart(args: string[], given: Environment = {}, options: SpawnOptions = {}): Running {
  return run("npm", ["start", "--silent", "--", ...args], given, options);
}

type Printed = { stdout: string; stderr: string; closed: boolean };

function seen(child: ChildProcess, printed: Printed, pattern: RegExp): Promise<RegExpExecArray> {
  return new Promise((fulfil, reject) => {
    const timer = setTimeout(
      () => done(() => reject(new Error(`not seen in time: ${pattern}\n${tail()}`))),
      PATIENCE_MS,
    );
    const tail = () => `${printed.stdout.slice(-2_000)}\n${printed.stderr.slice(-2_000)}`;
    const done = (end: () => void) => {
      clearTimeout(timer);
      child.off("printed", look);
      end();
    };
    const look = () => {
      const found = pattern.exec(printed.stdout) ?? pattern.exec(printed.stderr);
      if (found !== null) done(() => fulfil(found));
      else if (printed.closed) done(() => reject(new Error(`ended without ${pattern}\n${tail()}`)));
    };
    child.on("printed", look);
    look();
  });
}

/** The log lines among what was printed on stderr; plain lines are left out. */
export function logLines(stderr: string): (Record<string, unknown> & { msg: string })[] {
  return stderr
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line));
}

/** A folder for HOLDFAST_DIR that does not exist yet; `cleanUp` stops what runs in it and removes it. */
export function newDirectory(): string {
  const base = fs.mkdtempSync(join(tmpdir(), "holdfast-e2e-"));
  fs.chmodSync(base, 0o755); // the server's user may pass, also where that is not us
  folders.push(base);
  return join(base, "holdfast");
}

/** The postmaster's pid by its file; undefined without one. */
export function postmasterPid(directory: string): number | undefined {
  try {
    return Number(fs.readFileSync(join(directory, "data/postmaster.pid"), "utf8").split("\n")[0]);
  } catch {
    return undefined;
  }
}

/** Rows of a statement in the folder's database, as the superuser. */
// biome-ignore lint/suspicious/noExplicitAny: what a test looks at, it names.
export async function look(directory: string, text: string, values: unknown[] = []): Promise<any[]> {
  const postmaster = postmasterOf(fs.realpathSync(join(directory, "data")));
  if (postmaster === undefined) throw new Error(`no server runs in ${directory}`);
  const superuser = { ...superuserOf(postmaster), database: "holdfast" };
  return withClient(superuser, async (client) => (await client.query(text, values)).rows);
}

/** Whether a process lives; a zombie does not. */
export function lives(pid: number | undefined): boolean {
  return pid !== undefined && startOf(pid) !== undefined;
}

/** To be called after each test: ends what a test that failed has left running. */
export async function endProcesses(): Promise<void> {
  for (const { child, pid, ended } of processes.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null || pid === 0) continue;
    killGroup(pid);
    await ended;
  }
}

/** To be called after the tests of a file: stops the servers that were left, and removes the folders. */
export async function cleanUp(): Promise<void> {
  await endProcesses();
  for (const base of folders.splice(0)) {
    const directory = join(base, "holdfast");
    if (postmasterPid(directory) !== undefined) await (await startPostgres({ directory, port: 0 })).stop();
    const data = fs.lstatSync(join(directory, "data"), { throwIfNoEntry: false });
    if (data?.isSymbolicLink()) {
      const target = fs.readlinkSync(join(directory, "data"));
      if (target.startsWith(`${SHARED_FOLDER}/`))
        fs.rmSync(join(target, ".."), { recursive: true, force: true });
    }
    fs.rmSync(base, { recursive: true, force: true });
  }
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Whose lock a folder is under, as it is written there; undefined when it is free. */
export function lockOf(directory: string): string | undefined {
  const generations = fs
    .readdirSync(directory)
    .flatMap((name) => /^holdfast\.pid\.(\d+)$/.exec(name)?.[1] ?? []);
  if (generations.length === 0) return undefined;
  const text = fs.readFileSync(
    join(directory, `holdfast.pid.${Math.max(...generations.map(Number))}`),
    "utf8",
  );
  return text === "free\n" ? undefined : text;
}
