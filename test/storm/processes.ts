// The processes of a storm: started, killed and taken over, and asked to end.
import { type ChildProcess, fork } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { ProcessOptions } from "./process.ts";

const PROGRAM = join(import.meta.dirname, "process.ts");
/** After SIGTERM a client ends its call; no statement lasts longer than 15 s. */
const STOP_MS = 25_000;

type Given = Omit<ProcessOptions, "file" | "from"> & { folder: string };

/** One process after another in the same place. */
export class Place {
  /** How processes ended that nobody has killed, when it was not in order. */
  readonly faults: string[] = [];
  readonly #given: Given;
  readonly #files: string[] = [];
  #child: ChildProcess | undefined;
  #ended: Promise<void> = Promise.resolve();
  #isKilled = false;

  constructor(given: Given) {
    this.#given = given;
  }

  /** Starts it; resolves once its clients are at work. */
  async start(): Promise<void> {
    const { folder, ...options } = this.#given;
    const from = this.#last();
    const file = join(folder, `${options.name}_${this.#files.length}.told`);
    this.#files.push(file);
    this.#isKilled = false;
    const child = fork(PROGRAM, {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      env: { ...process.env, STORM_PROCESS: JSON.stringify({ ...options, file, from }) },
    });
    this.#child = child;
    this.#ended = new Promise((resolve) => {
      child.once("exit", (code, signal) => {
        if (!this.#isKilled && code !== 0) this.faults.push(`${options.name} ended with ${signal ?? code}`);
        resolve();
      });
    });
    await Promise.race([new Promise((resolve) => child.once("message", resolve)), this.#ended]);
  }

  /** `kill -9`: what it was about to write is lost. */
  async kill(): Promise<void> {
    this.#isKilled = true;
    this.#child?.kill("SIGKILL");
    await this.#ended;
  }

  async stop(): Promise<void> {
    this.#child?.kill("SIGTERM");
    const timer = setTimeout(() => this.#child?.kill("SIGKILL"), STOP_MS);
    await this.#ended;
    clearTimeout(timer);
  }

  /** What its clients were told, in order: whole lines, by words. */
  lines(): string[][] {
    return this.#files.flatMap((file) =>
      textOf(file)
        .split("\n")
        .slice(0, -1)
        .map((line) => line.split(" ")),
    );
  }

  #last(): number[] {
    const last: number[] = [];
    for (const [word, key] of this.lines()) {
      if (word !== "asks") continue;
      const [, at, n] = key!.split(".");
      last[Number(at)] = Number(n);
    }
    return Array.from(last, (n) => n ?? 0);
  }
}

/** A process that was killed at once has written nothing. */
function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
