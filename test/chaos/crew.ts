// The worker processes of chaos, and who starts them again: what a supervisor does, with a record of how each ended.
import { type ChildProcess, fork } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { TEST_TICKET_KEY } from "../support/constants.ts";
import type { Step } from "./steps.ts";

const PROGRAM = join(import.meta.dirname, "worker.ts");
/** The bound of a stop: drain, grace and closing. */
const STOP_MS = 42_000;

/** How a process ended. */
export type End = {
  pid: number;
  code: number | null;
  signal: NodeJS.Signals | null;
  /** What it was killed at; undefined when we did not kill it. */
  step: Step | undefined;
  at: Date;
  livedMs: number;
  /** From SIGTERM to the end. */
  stopMs: number | undefined;
  /** Its log. */
  file: string;
};

/** A worker process. */
export type Member = {
  child: ChildProcess;
  pid: number;
  startedAt: number;
  step: Step | undefined;
  /** It was asked to end, by SIGTERM. */
  stoppingAt: number | undefined;
  isReady: boolean;
  ended: Promise<End>;
};

/** What a worker process is given. */
export type CrewOptions = {
  workerUrl: string;
  serviceUrl: string;
  /** Where its logs go. */
  folder: string;
  concurrency: number;
  drainMs: number;
  logLevel?: string;
  onEnd?: (end: End) => Promise<void> | void;
};

/** Worker processes that are started again when they end, until `stop`. */
export class Crew {
  readonly ends: End[] = [];
  readonly members: Member[] = [];
  readonly #options: CrewOptions;
  #isOver = false;
  #number = 0;
  readonly #keepers: Promise<void>[] = [];

  constructor(options: CrewOptions) {
    this.#options = options;
  }

  /** Starts one that nobody starts again. */
  start(step?: Step): Member {
    this.#number += 1;
    const { workerUrl, serviceUrl, folder, concurrency, drainMs, logLevel = "warn" } = this.#options;
    const file = join(folder, `worker_${this.#number}.log`);
    const log = openSync(file, "a");
    const { kid, secret } = TEST_TICKET_KEY;
    const settings = {
      workerUrl,
      serviceUrl,
      kid,
      secret: secret.toString("base64"),
      concurrency,
      drainMs,
      logLevel,
      step,
    };
    const child = fork(PROGRAM, {
      stdio: ["ignore", log, log, "ipc"],
      env: { ...process.env, CHAOS_WORKER: JSON.stringify(settings) },
    });
    closeSync(log);
    const member: Member = {
      child,
      pid: child.pid ?? 0,
      startedAt: performance.now(),
      step,
      stoppingAt: undefined,
      isReady: false,
      ended: Promise.resolve({} as End),
    };
    member.ended = this.#endOf(member, file);
    child.on("error", () => {}); // it has ended, and says so
    child.on("message", () => {
      member.isReady = true;
    });
    this.members.push(member);
    return member;
  }

  /** Keeps so many, whatever happens to them. */
  keep(count: number): void {
    for (let place = 0; place < count; place += 1) this.#keepers.push(this.#keepOne());
  }

  /** Lets one die at a step; one that does not come to it in time is killed where it is. */
  kill(member: Member, step: Step, patienceMs = 4_000): void {
    if (member.step !== undefined || member.stoppingAt !== undefined) return;
    member.step = step;
    if (step === "anywhere" || !member.child.connected) return void member.child.kill("SIGKILL");
    member.child.send({ arm: step }, () => {});
    const timer = setTimeout(() => {
      member.step = "anywhere";
      member.child.kill("SIGKILL");
    }, patienceMs);
    void member.ended.then(() => clearTimeout(timer));
  }

  /** Asks one to end in order. */
  terminate(member: Member): void {
    if (member.stoppingAt !== undefined) return;
    member.stoppingAt = performance.now();
    member.child.kill("SIGTERM");
  }

  /** Asks all to end in order; those that do not within the bound of a stop are killed. */
  async stop(): Promise<void> {
    this.#isOver = true;
    for (const member of this.members) {
      member.child.kill("SIGCONT");
      this.terminate(member);
    }
    const ends = Promise.all(this.members.map((member) => member.ended));
    const timer = setTimeout(() => {
      for (const member of this.members) member.child.kill("SIGKILL");
    }, STOP_MS);
    await ends;
    clearTimeout(timer);
    await Promise.all(this.#keepers);
  }

  async #keepOne(): Promise<void> {
    while (!this.#isOver) {
      const { livedMs } = await this.start().ended;
      if (!this.#isOver) await sleep(livedMs < 2_000 ? 1_000 : 200);
    }
  }

  #endOf(member: Member, file: string): Promise<End> {
    return new Promise((resolve) => {
      member.child.once("exit", async (code, signal) => {
        const now = performance.now();
        const { pid, step, startedAt, stoppingAt } = member;
        const end: End = {
          pid,
          code,
          signal,
          step,
          at: new Date(),
          livedMs: now - startedAt,
          stopMs: stoppingAt === undefined ? undefined : now - stoppingAt,
          file,
        };
        this.ends.push(end);
        this.members.splice(this.members.indexOf(member), 1);
        await this.#options.onEnd?.(end);
        resolve(end);
      });
    });
  }
}
