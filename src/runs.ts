// The run protocol of every task: claim, work under a time limit, then complete or fail, fenced by attempt.
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import type { Logger } from "pino";
import type { z } from "zod";
import { call, type Db } from "./db.ts";
import { AppError } from "./errors.ts";
import { type ClaimedRun, type FailedRun, jobClaim, jobComplete, jobFail, jobHeartbeat } from "./jobs.ts";

/** A quarter of the lease that SQL gives, so that three beats in a row may be lost. */
const HEARTBEAT_MS = 5_000;

/** How long a handler may go on after its signal; then its slot is taken from it. */
export const GRACE_MS = 2_000;

/** One attempt of one run, as its task sees it. */
export type Run = {
  tenantId: string;
  runId: string;
  attempt: number;
  kind: string;
  input: Record<string, unknown>;
  /** Aborted when time is up, when the run went on without this attempt, by a shutdown that cannot wait. */
  signal: AbortSignal;
  /** Milliseconds left of the time limit, never below 0. */
  deadline(): number;
  log: Logger;
  /** `call` of db.ts for this tenant: the statement may take the time left, and ends with the signal. */
  call<T>(text: string, values: unknown[], row: z.ZodType<T>): Promise<T[]>;
};

/** Does the work of one kind; what it returns is the result that SQL applies. It must heed `run.signal`. */
export type Task = (run: Run) => Promise<unknown>;

/** The tasks by the kind of run they serve. */
export type Tasks = Readonly<Record<string, Task>>;

/** Where the worker tells what it measures; seconds are wall time from the claim on. */
export type Observe = {
  jobSeconds(kind: string, seconds: number, outcome: RunOutcome): void;
  jobTimeout(kind: string): void;
  schedulerDeadlock(): void;
};

/**
 * How an attempt ended. `stopped`: by a shutdown, which is no failure of it. `fenced`: the run had gone on
 * without it, so that nothing of it counts.
 */
export type RunOutcome = "completed" | "stopped" | "failed" | "dead_letter" | "fenced";

/** What a run needs from its worker; `worker` names it in the run's row. */
export type RunDeps = { db: Db; log: Logger; worker: string; observe?: Observe | undefined };

/** What a token of the queue carries. */
export type RunToken = { tenantId: string; runId: string };

type Failure = { code: string; message: string };

type Settled = { ok: true; result: unknown } | { ok: false; error: unknown };

let unsettled = 0;

/** Handlers of this process that outlived their signal and the grace after it, and have still not ended. */
export function unsettledHandlers(): number {
  return unsettled;
}

/**
 * Executes the run of a token, once. A stale token does nothing. Returns when the end of the attempt is
 * written, at the latest `GRACE_MS` and a short transaction after its time limit, whatever the handler does.
 * `poolSignal` ends the attempt by `shutdown`, and the run waits for the next worker. Throws only when the
 * claim or the end could not be written.
 */
export async function executeRun(
  deps: RunDeps,
  token: RunToken,
  tasks: Tasks,
  poolSignal?: AbortSignal,
): Promise<void> {
  if (poolSignal?.aborted) throw new AppError("shutdown");
  const claimed = await jobClaim(deps.db, token.tenantId, token.runId, deps.worker).catch(
    (error: unknown) => {
      if (error instanceof AppError && error.code === "job_run_not_found") return undefined; // swept meanwhile
      throw error;
    },
  );
  if (claimed === undefined) {
    deps.log.debug({ tenant_id: token.tenantId, run_id: token.runId }, "job_token_stale");
    return;
  }

  const startedAt = performance.now();
  const stop = new AbortController();
  const run = attemptOf(deps, token, claimed, startedAt + claimed.timeoutMs, stop.signal);
  run.log.info({ timeout_ms: claimed.timeoutMs }, "job_claimed");

  const unwatch = watch(deps, run, stop, poolSignal);
  const settled = await settle(run, tasks[claimed.kind]).finally(unwatch);

  const outcome = await record(deps, run, verdict(run, settled));
  deps.observe?.jobSeconds(run.kind, (performance.now() - startedAt) / 1000, outcome);
}

function attemptOf(
  deps: RunDeps,
  token: RunToken,
  claimed: ClaimedRun,
  endsAt: number,
  signal: AbortSignal,
): Run {
  const { tenantId, runId } = token;
  const { attempt, kind, input } = claimed;
  const deadline = () => Math.max(0, endsAt - performance.now());
  return {
    tenantId,
    runId,
    attempt,
    kind,
    input,
    signal,
    deadline,
    log: deps.log.child({ tenant_id: tenantId, run_id: runId, kind, attempt }),
    call: (text, values, row) =>
      call(deps.db, tenantId, text, values, row, { signal, timeoutMs: deadline() }),
  };
}

/** Starts what may end the attempt: its time limit, its heartbeat, a shutdown. The answer stops them all. */
function watch(
  deps: RunDeps,
  run: Run,
  stop: AbortController,
  poolSignal: AbortSignal | undefined,
): () => void {
  const timer = setTimeout(() => stop.abort(new AppError("job_timeout")), run.deadline());
  const onShutdown = () => stop.abort(new AppError("shutdown"));
  poolSignal?.addEventListener("abort", onShutdown, { once: true });
  if (poolSignal?.aborted) onShutdown(); // while the claim was under way
  const quiet = new AbortController();
  void beat(deps, run, stop, quiet.signal);
  return () => {
    clearTimeout(timer);
    poolSignal?.removeEventListener("abort", onShutdown);
    quiet.abort();
  };
}

/** A beat that fails is logged and the next one tried; only a fence ends the attempt. */
async function beat(deps: RunDeps, run: Run, stop: AbortController, quiet: AbortSignal): Promise<void> {
  while (await sleep(HEARTBEAT_MS, true, { signal: quiet }).catch(() => false)) {
    try {
      await jobHeartbeat(deps.db, run.tenantId, run.runId, run.attempt, { signal: quiet });
    } catch (error) {
      if (quiet.aborted) return;
      if (isFenced(error)) return stop.abort(error);
      run.log.warn({ err: error }, "job_heartbeat_failed");
    }
  }
}

/** The end of the handler, or of the grace after its signal, whichever comes first. */
async function settle(run: Run, task: Task | undefined): Promise<Settled> {
  if (task === undefined)
    return { ok: false, error: new AppError("job_kind_unknown", { detail: { kind: run.kind } }) };

  const ended = new AbortController();
  const work: Promise<Settled> = Promise.resolve(run)
    .then(task)
    .then(
      (result) => ({ ok: true, result }) as const,
      (error: unknown) => ({ ok: false, error }) as const,
    );
  const graceOver = graceAfter(run.signal, ended.signal).then(() => {
    if (!ended.signal.aborted) countUnsettled(run, work);
    return { ok: false, error: run.signal.reason } as const;
  });
  return Promise.race([work, graceOver]).finally(() => ended.abort());
}

async function graceAfter(signal: AbortSignal, ended: AbortSignal): Promise<void> {
  if (!signal.aborted) {
    const { promise, resolve } = Promise.withResolvers<void>();
    signal.addEventListener("abort", () => resolve(), { once: true });
    ended.addEventListener("abort", () => resolve(), { once: true });
    await promise;
  }
  await sleep(GRACE_MS, undefined, { signal: ended }).catch(() => {});
}

/** Its slot is free again, but its memory is not: an operator restarts a worker in which these pile up. */
function countUnsettled(run: Run, work: Promise<Settled>): void {
  unsettled += 1;
  run.log.error({ unsettled }, "job_handler_unsettled");
  void work.then(() => {
    unsettled -= 1;
    run.log.warn({ unsettled }, "job_handler_settled_late");
  });
}

/** A result counts unless time was up or the attempt was fenced; a failure has the name of what ended it. */
function verdict(run: Run, settled: Settled): Settled {
  const reason: unknown = run.signal.reason;
  if (reason instanceof AppError && reason.code !== "shutdown") return { ok: false, error: reason };
  if (settled.ok) return settled;
  if (reason !== undefined) return { ok: false, error: reason };
  // The server's clock may cut a statement a moment before our timer is served.
  return run.deadline() === 0
    ? { ok: false, error: new AppError("job_timeout", { cause: settled.error }) }
    : settled;
}

/** Writes the end of the attempt. A result that SQL refuses is a failure of the attempt. */
async function record(deps: RunDeps, run: Run, settled: Settled): Promise<RunOutcome> {
  if (!settled.ok) return recordFailure(deps, run, settled.error);
  try {
    await jobComplete(deps.db, run.tenantId, run.runId, run.attempt, settled.result);
    run.log.info("job_completed");
    return "completed";
  } catch (error) {
    return recordFailure(deps, run, error);
  }
}

async function recordFailure(deps: RunDeps, run: Run, error: unknown): Promise<RunOutcome> {
  const failure = failureOf(error);
  if (failure.code === "job_timeout") {
    deps.observe?.jobTimeout(run.kind);
    run.log.warn({ error_code: failure.code }, "job_timeout");
  }
  if (isFenced(error)) return fenced(run);
  try {
    const failed = await jobFail(deps.db, run.tenantId, run.runId, run.attempt, failure);
    logFailure(run, failed, failure, error);
    return OUTCOMES[failed.state];
  } catch (refusal) {
    if (!isFenced(refusal)) throw refusal;
    return fenced(run);
  }
}

const OUTCOMES = { PENDING: "stopped", FAILED: "failed", DEAD_LETTER: "dead_letter" } as const;

function logFailure(run: Run, failed: FailedRun, failure: Failure, error: unknown): void {
  const facts = { error_code: failure.code, error_text: failure.message };
  // What has no name of ours is a bug, and its stack is wanted.
  const all = error instanceof AppError ? facts : { ...facts, err: error };
  if (failed.state === "DEAD_LETTER") run.log.error(all, "job_dead_letter");
  else if (failed.state === "PENDING") run.log.info(all, "job_stopped");
  else run.log.warn({ ...all, available_at: failed.availableAt }, "job_failed");
}

/** The run is another's now, or has ended: nothing of this attempt counts, and nothing is written. */
function fenced(run: Run): RunOutcome {
  run.log.warn({ error_code: "job_run_fenced" }, "job_fenced");
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

/** The run has gone on without this attempt, or is there no more. */
function isFenced(error: unknown): boolean {
  return error instanceof AppError && (error.code === "job_run_fenced" || error.code === "job_run_not_found");
}
