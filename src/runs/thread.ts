// A task in a thread of its own: it is told to stop as every other, and terminated when it does not.
import { Worker } from "node:worker_threads";
import { z } from "zod";
import { AppError, ERRORS, type ErrorCode } from "../errors.ts";
import type { Run } from "../tasks.ts";

/** What the thread knows of its run; `endsAt` in ms of Unix time. */
export type ThreadFacts = Pick<Run, "tenantId" | "runId" | "attempt" | "kind" | "slot" | "input"> & {
  module: string;
  endsAt: number;
};

/** An error on its way between threads; `from` is the call whose error it was. */
export type Failure = {
  name?: string | undefined;
  message: string;
  stack?: string | undefined;
  code?: string | undefined;
  detail?: Record<string, unknown> | undefined;
  hint?: string | undefined;
  from?: number | undefined;
};

/** A call that the thread asks for. */
export type Asked = {
  type: "asked";
  id: number;
  method: "query" | "call" | "work_call" | "heartbeat";
  args: unknown[];
};

/** What became of such a call. */
export type Answer = { type: "answer"; id: number } & (
  | { ok: true; value: unknown }
  | { ok: false; failure: Failure }
);

/** What the thread is told. */
export type ToThread = Answer | { type: "abort"; failure: Failure };

type FromThread =
  | Asked
  | { type: "progress"; done: number; text?: string }
  | {
      type: "log";
      level: "trace" | "debug" | "info" | "warn" | "error" | "fatal";
      facts: object;
      message?: string;
    }
  | { type: "result"; value: unknown }
  | { type: "failure"; failure: Failure };

/** A handler at work; `terminate` ends it wherever it is, for one that has a thread. */
export type Handler = { settled: Promise<unknown>; terminate?: () => Promise<unknown> };

const LIMITS = { maxOldGenerationSizeMb: 512, maxYoungGenerationSizeMb: 64, stackSizeMb: 4 };
const MAIN = new URL("./thread_main.ts", import.meta.url);
const Row = z.record(z.string(), z.unknown());

/** Starts the default export of `module` for this run. The thread sees no environment: no secret is in it. */
export function startThread(module: URL, run: Run): Handler {
  const { tenantId, runId, attempt, kind, slot, input } = run;
  const endsAt = Date.now() + run.deadline();
  const facts: ThreadFacts = { tenantId, runId, attempt, kind, slot, input, module: module.href, endsAt };
  const thread = new Worker(MAIN, { workerData: facts, resourceLimits: LIMITS, env: {}, execArgv: [] });
  const settled = Promise.withResolvers<unknown>();
  const errors = new Map<number, unknown>();

  const tell = (message: ToThread) => thread.postMessage(message);
  const onAbort = () => tell({ type: "abort", failure: failureOf(run.signal.reason) });
  run.signal.addEventListener("abort", onAbort, { once: true });

  thread.on("message", (message: FromThread) => {
    if (message.type === "asked") void answer(message);
    else if (message.type === "progress") run.progress(message.done, message.text);
    else if (message.type === "log") run.log[message.level](message.facts, message.message);
    else if (message.type === "result") settled.resolve(message.value);
    else settled.reject(errors.get(message.failure.from ?? 0) ?? errorOf(message.failure));
  });
  thread.on("error", (error) => settled.reject(error));
  thread.on("exit", () => settled.reject(new Error("the thread ended before its task did")));

  async function answer({ id, method, args }: Asked): Promise<void> {
    try {
      tell({ type: "answer", id, ok: true, value: await asked(run, method, args) });
    } catch (error) {
      errors.set(id, error);
      tell({ type: "answer", id, ok: false, failure: { ...failureOf(error), from: id } });
    }
  }

  const terminate = () => thread.terminate();
  const ended = settled.promise.finally(() => {
    run.signal.removeEventListener("abort", onAbort);
    return terminate();
  });
  return { settled: ended, terminate };
}

function asked(run: Run, method: Asked["method"], [text, values]: unknown[]): Promise<unknown> {
  if (method === "heartbeat") return run.heartbeat();
  if (method === "call") return run.call(text as string, values as unknown[], Row);
  if (method === "work_call") return run.client.call(text as string, values as unknown[], Row);
  return run.client.query(text as string, values as unknown[]);
}

function failureOf(error: unknown): Failure {
  if (!(error instanceof Error)) return { message: String(error) };
  const { code } = error as Error & { code?: string };
  return { name: error.name, message: error.message, stack: error.stack, code };
}

/** An error of the task: one of ours is ours again on this side. */
function errorOf({ name, message, stack, code, detail, hint }: Failure): Error {
  if (name === "AppError" && code !== undefined && Object.hasOwn(ERRORS, code)) {
    return new AppError(code as ErrorCode, { message, detail: detail ?? {}, hint });
  }
  return Object.assign(new Error(message), { stack });
}
