// One attempt of a run: what its task is given, and what may end it early.
import type { Logger } from "pino";
import { call } from "../db.ts";
import { AppError } from "../errors.ts";
import { type ClaimedRun, jobHeartbeat, jobProgress } from "../jobs.ts";
import type { RunDeps } from "../runs.ts";
import type { Run, TaskEntry } from "../tasks.ts";
import type { LiveAttempt } from "./beats.ts";
import { WorkTransaction } from "./client.ts";
import { throttledProgress } from "./progress.ts";

/** An attempt that was claimed. */
export type Attempt = LiveAttempt & {
  readonly kind: string;
  readonly slot: number | null;
  readonly signal: AbortSignal;
  /** Milliseconds left, never below 0. */
  deadline(): number;
  readonly log: Logger;
  /** The work transaction, once the task has touched `run.client`. */
  readonly work: WorkTransaction | undefined;
  /** What its task is given, with the input as the task's schema reads it. Throws `job_input_invalid`. */
  runFor(task: TaskEntry): Run;
  /** From here on, nothing aborts it and it reports nothing. */
  settle(): void;
};

/** The attempt that `claimed` says is ours. Its time runs. */
export function attemptOf(deps: RunDeps, claimed: ClaimedRun): Attempt {
  const { tenantId, runId, attempt, kind, slot } = claimed;
  const endsAt = performance.now() + claimed.timeoutMs;
  const stop = new AbortController();
  const { signal } = stop;
  let hasSettled = false;
  let log: Logger | undefined;
  let work: WorkTransaction | undefined;

  const deadline = () => Math.max(0, endsAt - performance.now());
  const abort = (reason: AppError) => {
    if (!hasSettled) stop.abort(reason);
  };
  const timer = setTimeout(() => abort(new AppError("job_timeout")), claimed.timeoutMs);
  const heeded = (error: unknown) => {
    if (isEnd(error)) abort(error);
  };
  const progress = throttledProgress(async (done, text) => {
    const noted = jobProgress(deps.work, { tenantId, runId, attempt }, done, text?.slice(0, 200), { signal });
    await noted.catch(heeded);
  });

  const self: Attempt = {
    ...{ tenantId, runId, attempt, kind, slot, signal, deadline, abort },
    get log() {
      log ??= deps.log.child({ tenant_id: tenantId, run_id: runId, kind, attempt });
      return log;
    },
    get work() {
      return work;
    },
    runFor: (task) => ({
      ...{ tenantId, runId, attempt, kind, slot, signal, deadline },
      input: inputFor(task, claimed),
      get log() {
        return self.log;
      },
      async heartbeat() {
        const beaten = jobHeartbeat(deps.work, tenantId, runId, attempt, { signal });
        beaten.catch(heeded);
        return beaten;
      },
      progress: progress.report,
      call: (text, values, row) =>
        call(deps.work, tenantId, text, values, row, { signal, timeoutMs: deadline() }),
      get client() {
        work ??= new WorkTransaction(deps.work, self);
        return work.client;
      },
    }),
    settle() {
      hasSettled = true;
      clearTimeout(timer);
      progress.end();
    },
  };
  return self;
}

/** The run has gone on without the attempt, is there no more, or was cancelled. */
function isEnd(error: unknown): error is AppError {
  return error instanceof AppError && (isFenced(error) || error.code === "job_cancelled");
}

/** The run has gone on without the attempt, or is there no more. */
export function isFenced(error: unknown): boolean {
  return error instanceof AppError && (error.code === "job_run_fenced" || error.code === "job_run_not_found");
}

function inputFor(task: TaskEntry, { kind, input }: ClaimedRun): Run["input"] {
  const read = task.input.safeParse(input);
  if (read.success) return read.data as Run["input"];
  const [fault] = read.error.issues;
  throw new AppError("job_input_invalid", {
    detail: { kind, path: fault?.path.join(".") ?? "", fault: fault?.message ?? "" },
    hint: "The input is not what the task of this kind reads: the same input would be refused again.",
  });
}
