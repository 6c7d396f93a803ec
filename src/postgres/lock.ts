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
 * Takes `<directory>/holdfast.pid` for this process and gives what releases it. A lock whose process has
 * ended, by `kill -9` for one, is taken over. Throws `already_running` while the other one lives.
 */
export function lockDirectory(directory: string): () => void {
  const path = join(directory, "holdfast.pid");
  const draft = `${path}.${process.pid}`;
  const mine = `${process.pid} ${startOf(process.pid)} ${bootId()}\n`;
  fs.writeFileSync(draft, mine, { mode: 0o644 });
  try {
    // A link fails where the name exists: whole or not at all, and once.
    while (!linked(draft, path)) setAsideIfStale(path, directory);
  } finally {
    fs.rmSync(draft, { force: true });
  }
  return () => {
    if (read(path) === mine) fs.rmSync(path, { force: true });
  };
}

function setAsideIfStale(path: string, directory: string): void {
  const found = read(path);
  if (found === undefined) return;
  const [pid, start, boot] = found.trim().split(" ");
  if (boot === bootId() && start === startOf(Number(pid))) {
    throw new AppError("already_running", {
      message: `holdfast is already running in ${directory}, as process ${pid}`,
      hint: `Use that one, stop it (kill ${pid}), or set HOLDFAST_DIR to another folder for a second one.`,
      detail: { directory, pid: Number(pid) },
    });
  }
  const aside = `${path}.${process.pid}.stale`;
  try {
    fs.renameSync(path, aside);
  } catch (error) {
    if (isAbsent(error)) return;
    throw error;
  }
  // Another process may have taken the stale lock over since we read it: then this is its own, and goes back.
  if (read(aside) !== found) linked(aside, path);
  fs.rmSync(aside, { force: true });
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
