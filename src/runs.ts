// The run protocol of every task: claim, work under a time limit, then complete or fail, fenced by attempt.
import pg from "pg";
import type { Logger } from "pino";
import type { Db } from "./db.ts";
import { AppError } from "./errors.ts";
import {
  type ClaimedRun,
  type CohortTick,
  type CompletedRun,
  type EndedAttempt,
  type FailedRun,
  jobComplete,
  jobFail,
} from "./jobs.ts";
import { type Attempt, attemptOf, isFenced } from "./runs/attempt.ts";
import type { LiveAttempt } from "./runs/beats.ts";
import { type Handler, startThread } from "./runs/thread.ts";
import type { Run, Task, TaskEntry } from "./tasks.ts";

export type { Run, Task };

/** What a token of the queue carries. */
export type RunToken = { tenantId: string; runId: string };

/** How long a handler may go on after its signal; then its slot is taken from it. */
export const GRACE_MS = 2_000;

/** Where the worker tells what it measures; seconds are wall time. */
export type Observe = {
  /** From the claim to the end of the attempt. */
  jobSeconds(kind: string, seconds: number, outcome: RunOutcome): void;
  /** Once for each attempt whose time was up, by what ended it. */
  jobTimeout(kind: string, layer: TimeoutLayer): void;
  /** From the moment a run was due to its claim. */
  jobWait(kind: string, seconds: number): void;
  claimSeconds(seconds: number): void;
  /** The end of an attempt that had a result. */
  commitSeconds(seconds: number): void;
  /** An attempt whose worker was lost, and what became of its run. */
  reaped(kind: string, outcome: "retry" | "dead_letter"): void;
  /** How many handlers outlive their attempt now. */
  handlersLeaked(count: number): void;
  schedulerDeadlock(): void;
  /** All transactions of a tick together, and what each has answered. */
  tick(seconds: number, made: readonly CohortTick[]): void;
  /** This process brought so many runs (1) from one state to another, as SQL has answered; `from` is "" for new ones. */
  transition(from: string, to: string, count?: number): void;
};

/**
 * What ended an attempt whose time was up: `abort`, the handler heeded its signal; `grace`, it did not, and was left
 * behind; `thread`, it did not, and was terminated; `statement`, the server cut its statement before our timer came.
 */
export type TimeoutLayer = "abort" | "grace" | "thread" | "statement";

/**
 * How an attempt ended. `stopped`: by a shutdown, which is no failure of it. `fenced`: the run had gone on
 * without it, so that nothing of it counts. `cancelled`: somebody asked for its end.
 */
export type RunOutcome = "completed" | "stopped" | "failed" | "dead_letter" | "fenced" | "cancelled";

/** What a run needs from its worker. */
export type RunDeps = {
  db: Db;
  /** Where tasks work, as holdfast_service: a login from which nothing leads to another tenant. */
  work: Db;
  log: Logger;
  /** Claims the run of a token; undefined when there is nothing to do. */
  claim(token: RunToken): Promise<ClaimedRun | undefined>;
  /** Completes an attempt whose kind applies nothing; undefined when it was not completed. */
  complete(ended: EndedAttempt): Promise<CompletedRun | undefined>;
  /** The attempts that go on, for the beat. */
  live: Set<LiveAttempt>;
  observe?: Observe | undefined;
  /** Told how many handlers outlive their attempt, when one more does. */
  onLeak?: ((count: number) => void) | undefined;
};

type Failure = { code: string; message: string };

type Settled =
  | { ok: true; result: unknown }
  | { ok: false; error: unknown; layer?: TimeoutLayer | undefined };

let unsettled = 0;

/** Handlers of this process that outlived their signal and the grace after it, and have still not ended. */
export function unsettledHandlers(): number {
  return unsettled;
}

/**
 * Executes the run of a token, once; `dueAt` is when the token was to wake us. A stale token does nothing. Returns when
 * the end of the attempt is written, at the latest `GRACE_MS` and a short transaction after its time limit, whatever the
 * handler does. `shutdown` ends the attempt, and the run waits for the next worker. Throws only when the claim or the
 * end could not be written.
 */
export async function executeRun(
  deps: RunDeps,
  token: RunToken & { dueAt?: Date },
  tasks: ReadonlyMap<string, TaskEntry>,
  shutdown?: AbortSignal,
): Promise<void> {
  if (shutdown?.aborted) throw new AppError("shutdown");
  const claimed = await deps.claim(token);
  if (claimed === undefined) {
    deps.log.debug({ tenant_id: token.tenantId, run_id: token.runId }, "job_token_stale");
    return;
  }

  const startedAt = performance.now();
  deps.observe?.transition(claimed.fromState, "RUNNING");
  if (token.dueAt !== undefined) {
    deps.observe?.jobWait(claimed.kind, Math.max(0, Date.now() - token.dueAt.getTime()) / 1000);
  }
  const attempt = attemptOf(deps, claimed);
  attempt.log.debug({ timeout_ms: claimed.timeoutMs }, "job_claimed");
  deps.live.add(attempt);
  try {
    const settled = await settle(deps, attempt, tasks.get(claimed.kind), shutdown);
    const outcome = await record(deps, attempt, verdict(attempt, settled));
    deps.observe?.jobSeconds(attempt.kind, (performance.now() - startedAt) / 1000, outcome);
  } finally {
    deps.live.delete(attempt);
    attempt.work?.abandon();
  }
}

/** The end of the handler, or of the grace after its signal, whichever comes first. */
async function settle(
  deps: RunDeps,
  attempt: Attempt,
  task: TaskEntry | undefined,
  shutdown: AbortSignal | undefined,
): Promise<Settled> {
  const graceOver = Promise.withResolvers<void>();
  let grace: NodeJS.Timeout | undefined;
  const onAbort = () => {
    grace = setTimeout(graceOver.resolve, GRACE_MS);
  };
  const onShutdown = () => attempt.abort(new AppError("shutdown"));
  attempt.signal.addEventListener("abort", onAbort, { once: true });
  shutdown?.addEventListener("abort", onShutdown, { once: true });
  if (shutdown?.aborted) onShutdown(); // while the claim was under way
  try {
    const handler = startHandler(attempt, task);
    const work = handler.settled.then(
      (result): Settled => ({ ok: true, result }),
      (error: unknown): Settled => ({ ok: false, error }),
    );
    return await Promise.race([
      work,
      graceOver.promise.then(() => leaveBehind(deps, attempt, handler, work)),
    ]);
  } finally {
    attempt.settle();
    clearTimeout(grace);
    shutdown?.removeEventListener("abort", onShutdown);
  }
}

function startHandler(attempt: Attempt, task: TaskEntry | undefined): Handler {
  try {
    if (task === undefined) throw new AppError("job_kind_unknown", { detail: { kind: attempt.kind } });
    const run = attempt.runFor(task);
    if (task.run === undefined) return startThread(task.thread, run);
    return { settled: Promise.resolve(run).then((given) => task.run(given)) };
  } catch (error) {
    return { settled: Promise.reject(error) };
  }
}

/** Takes the slot of a handler that did not heed its signal. */
async function leaveBehind(
  deps: RunDeps,
  attempt: Attempt,
  handler: Handler,
  work: Promise<Settled>,
): Promise<Settled> {
  const error: unknown = attempt.signal.reason;
  attempt.work?.abandon();
  if (handler.terminate === undefined) {
    countUnsettled(deps, attempt, work);
    return { ok: false, error, layer: "grace" };
  }
  void handler.terminate();
  return { ok: false, error, layer: "thread" };
}

/** Its slot is free again, but its memory is not: a worker in which these pile up ends, to be started anew. */
function countUnsettled(deps: RunDeps, attempt: Attempt, work: Promise<Settled>): void {
  unsettled += 1;
  attempt.log.error({ unsettled }, "job_handler_unsettled");
  deps.observe?.handlersLeaked(unsettled);
  void work.then(() => {
    unsettled -= 1;
    attempt.log.warn({ unsettled }, "job_handler_settled_late");
    deps.observe?.handlersLeaked(unsettled);
  });
  deps.onLeak?.(unsettled);
}

/** A result counts unless the attempt was ended; a failure has the name of what ended it. */
function verdict(attempt: Attempt, settled: Settled): Settled {
  const { aborted, reason } = attempt.signal;
  const layer = settled.ok ? undefined : settled.layer;
  if (aborted && !isShutdown(reason)) return { ok: false, error: reason, layer: layer ?? "abort" };
  if (settled.ok) return settled;
  if (aborted) return { ok: false, error: reason };
  // The server's clock may cut a statement a moment before our timer is served.
  return attempt.deadline() === 0
    ? { ok: false, error: new AppError("job_timeout", { cause: settled.error }), layer: "statement" }
    : settled;
}

/** Writes the end of the attempt. A result that SQL refuses is a failure of the attempt. */
async function record(deps: RunDeps, attempt: Attempt, settled: Settled): Promise<RunOutcome> {
  if (!settled.ok) return recordFailure(deps, attempt, settled.error, settled.layer);
  const began = performance.now();
  try {
    await complete(deps, attempt, settled.result);
    deps.observe?.commitSeconds((performance.now() - began) / 1000);
    deps.observe?.transition("RUNNING", "COMPLETED");
    attempt.log.info("job_completed");
    return "completed";
  } catch (error) {
    return recordFailure(deps, attempt, error);
  }
}

/** With what the task has done in its work transaction, both or neither. Where it has done nothing there, with others. */
async function complete(deps: RunDeps, attempt: Attempt, result: unknown): Promise<void> {
  if (attempt.work?.isOpen) return attempt.work.complete(result);
  const { tenantId, runId, attempt: number } = attempt;
  const completed = await deps.complete({ tenantId, runId, attempt: number, result }).catch(() => undefined);
  if (completed === undefined) await jobComplete(deps.db, tenantId, runId, number, result);
}

async function recordFailure(
  deps: RunDeps,
  attempt: Attempt,
  error: unknown,
  layer: TimeoutLayer = "abort",
): Promise<RunOutcome> {
  attempt.work?.abandon(); // nothing of it holds a lock while the failure is written
  const failure = failureOf(error);
  if (failure.code === "job_timeout") {
    deps.observe?.jobTimeout(attempt.kind, layer);
    attempt.log.warn({ error_code: failure.code, layer }, "job_timeout");
  }
  if (isFenced(error)) return fenced(attempt);
  try {
    const failed = await jobFail(deps.db, attempt.tenantId, attempt.runId, attempt.attempt, failure);
    deps.observe?.transition("RUNNING", failed.state);
    logFailure(attempt, failed, failure, error);
    return failure.code === "job_cancelled" ? "cancelled" : OUTCOMES[failed.state];
  } catch (refusal) {
    if (!isFenced(refusal)) throw refusal;
    return fenced(attempt);
  }
}

const OUTCOMES = { PENDING: "stopped", FAILED: "failed", DEAD_LETTER: "dead_letter" } as const;

function logFailure({ log }: Attempt, failed: FailedRun, failure: Failure, error: unknown): void {
  const facts = { error_code: failure.code, error_text: failure.message };
  // What has no name of ours is a bug, and its stack is wanted.
  const all = error instanceof AppError ? facts : { ...facts, err: error };
  if (failure.code === "job_cancelled") log.info(all, "job_cancelled");
  else if (failed.state === "DEAD_LETTER") log.error(all, "job_dead_letter");
  else if (failed.state === "PENDING") log.info(all, "job_stopped");
  else log.warn({ ...all, available_at: failed.availableAt }, "job_failed");
}

/** The run is another's now, or has ended: nothing of this attempt counts, and nothing is written. */
function fenced({ log }: Attempt): RunOutcome {
  log.warn({ error_code: "job_run_fenced" }, "job_fenced");
  return "fenced";
}

/** The name and the text that the run's row keeps. SQL reads retry or dead letter from the name. */
function failureOf(error: unknown): Failure {
  if (error instanceof AppError) {
    const facts = Object.keys(error.detail).length === 0 ? "" : ` ${JSON.stringify(error.detail)}`;
    return { code: error.code, message: storable(error.message + facts) };
  }
  const message = storable(error instanceof Error ? error.message : String(error));
  if (error instanceof pg.DatabaseError && error.code !== undefined)
    return { code: `sqlstate_${error.code}`, message };
  return { code: "internal_error", message };
}

/** Postgres keeps every character but NUL. */
function storable(text: string): string {
  return text.replaceAll("\0", "\uFFFD");
}

function isShutdown(reason: unknown): boolean {
  return reason instanceof AppError && reason.code === "shutdown";
}
