// One process at a time on a folder. A process is known by its pid and the moment it began: pids are reused.
import * as fs from "node:fs";
import { join } from "node:path";
import { AppError } from "../errors.ts";

const STATE = 0; // Fields of /proc/PID/stat, counted from the one after the name.
const START_TIME = 19;

/**
 * When the process began, in clock ticks since the machine started; undefined once it has ended. A zombie has
 * ended: in a container nobody may come to bury it.
 */
export function startOf(pid: number): string | undefined {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "latin1");
    // The name stands in parentheses and may itself hold blanks and parentheses.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[STATE] === "Z" || fields[STATE] === "X" ? undefined : fields[START_TIME];
  } catch {
    return undefined;
  }
}

/**
 * Takes the lock of a folder for this process and gives what releases it. A lock whose process has ended, by `kill -9`
 * for one, is taken over. Throws `already_running` while the other one lives.
 *
 * The lock is the file `holdfast.pid.<n>` with the highest n. It is never moved or removed while it is the highest: who
 * finds it stale makes the next one, by a link, which fails where the name exists. So of many exactly one wins, however
 * long any of them pauses between two steps; who makes one that is no longer the next finds a higher, and backs out.
 */
export function lockDirectory(directory: string): () => void {
  const draft = join(directory, `holdfast.pid.draft-${process.pid}`);
  fs.writeFileSync(draft, `${process.pid} ${startOf(process.pid)} ${bootId()}\n`, { mode: 0o644 });
  try {
    for (;;) {
      const last = generations(directory).at(-1) ?? 0;
      refuseIfHeld(directory, last);
      if (!linked(draft, lockFile(directory, last + 1))) continue;
      const [highest, ...lower] = generations(directory).reverse();
      if (highest === last + 1) {
        for (const each of lower) fs.rmSync(lockFile(directory, each), { force: true });
        return () => release(directory, last + 1);
      }
      fs.rmSync(lockFile(directory, last + 1), { force: true });
    }
  } finally {
    fs.rmSync(draft, { force: true });
  }
}

function lockFile(directory: string, generation: number): string {
  return join(directory, `holdfast.pid.${generation}`);
}

function generations(directory: string): number[] {
  const found = fs.readdirSync(directory).map((name) => /^holdfast\.pid\.(\d{1,15})$/.exec(name)?.[1]);
  return found
    .flatMap((generation) => (generation === undefined ? [] : [Number(generation)]))
    .sort((a, b) => a - b);
}

function refuseIfHeld(directory: string, generation: number): void {
  const [pid, start, boot] = (read(lockFile(directory, generation)) ?? "").trim().split(" ");
  if (start === undefined || boot !== bootId() || start !== startOf(Number(pid))) return;
  throw new AppError("already_running", {
    message: `holdfast is already running in ${directory}, as process ${pid}`,
    hint: `Use that one, stop it (kill ${pid}), or set HOLDFAST_DIR to another folder for a second one.`,
    detail: { directory, pid: Number(pid) },
  });
}

/**
 * The first one goes without a trace: who paused before it was made can only make the same one. A later one stays, as the
 * highest, and says that nobody holds it.
 */
function release(directory: string, generation: number): void {
  const path = lockFile(directory, generation);
  if (generation === 1 || read(path) === undefined) {
    fs.rmSync(path, { force: true }); // or it went with its folder
    return;
  }
  const draft = join(directory, `holdfast.pid.free-${process.pid}`);
  fs.writeFileSync(draft, "free\n", { mode: 0o644 });
  fs.renameSync(draft, path);
}

function linked(from: string, to: string): boolean {
  try {
    fs.linkSync(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

function read(path: string): string | undefined {
  try {
    return fs.readFileSync(path, "utf8");
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}

function bootId(): string {
  return fs.readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}

function isAbsent(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "ENOENT";
}
