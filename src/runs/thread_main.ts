// Inside a thread: gives the task of a module a run whose calls are made by the other side.
import { parentPort, workerData } from "node:worker_threads";
import type { Run, Task } from "../tasks.ts";
import type { Asked, Failure, ThreadFacts, ToThread } from "./thread.ts";

const port = parentPort!;
const { module, endsAt, ...facts } = workerData as ThreadFacts;
const stop = new AbortController();
const open = new Map<number, PromiseWithResolvers<unknown>>();
let asked = 0;

port.on("message", (message: ToThread) => {
  if (message.type === "abort") return stop.abort(errorOf(message.failure));
  const answer = open.get(message.id);
  open.delete(message.id);
  if (message.ok) answer?.resolve(message.value);
  else answer?.reject(errorOf(message.failure));
});

const run: Run = {
  ...facts,
  signal: stop.signal,
  deadline: () => Math.max(0, endsAt - Date.now()),
  heartbeat: () => ask<Date>("heartbeat", []),
  progress: (done, text) => port.postMessage({ type: "progress", done, text }),
  log: logOf({}),
  call: async (text, values, row) =>
    (await ask<unknown[]>("call", [text, values])).map((each) => row.parse(each)),
  client: {
    query: (text, values = []) => ask("query", [text, values]),
    call: async (text, values, row) =>
      (await ask<unknown[]>("work_call", [text, values])).map((each) => row.parse(each)),
  },
};

try {
  const { default: task } = (await import(module)) as { default: Task };
  port.postMessage({ type: "result", value: await task(run) });
} catch (error) {
  port.postMessage({ type: "failure", failure: failureOf(error) });
}

function ask<T>(method: Asked["method"], args: unknown[]): Promise<T> {
  asked += 1;
  const answer = Promise.withResolvers<unknown>();
  port.postMessage({ type: "asked", id: asked, method, args });
  open.set(asked, answer);
  return answer.promise as Promise<T>;
}

/** An error of the other side; `from` says which, should the task throw it on. */
function errorOf(failure: Failure): Error {
  return Object.assign(new Error(failure.message), failure);
}

function failureOf(error: unknown): Failure {
  if (!(error instanceof Error)) return { name: "Error", message: String(error) };
  const { code, from, detail, hint } = error as Error & Partial<Failure>;
  return { name: error.name, message: error.message, stack: error.stack, code, from, detail, hint };
}

/** What pino's logger has that a task may want. */
function logOf(bound: object): Run["log"] {
  const line =
    (level: string) =>
    (first: unknown, message?: string): void => {
      const named = typeof first === "string" ? { message: first } : { facts: first, message };
      port.postMessage({
        type: "log",
        level,
        facts: { ...bound, ...(named.facts as object) },
        message: named.message,
      });
    };
  const levels = ["trace", "debug", "info", "warn", "error", "fatal"];
  const child = (more: object) => logOf({ ...bound, ...more });
  return {
    ...Object.fromEntries(levels.map((level) => [level, line(level)])),
    child,
  } as unknown as Run["log"];
}
