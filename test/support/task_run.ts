// A run of a task without a worker: claimed, given to its task, and ended as the worker would end it.
import type { Logger } from "pino";
import { call } from "../../src/db.ts";
import { AppError } from "../../src/errors.ts";
import type { Run, TaskEntry } from "../../src/tasks.ts";
import type { Row } from "./contract.ts";
import type { TestDatabase } from "./database.ts";
import { runsOf } from "./runs.ts";

/** How a task ended, and what it said of its progress. `state` is that of the run then, or that it was fenced. */
export type Ended = {
  runId: string;
  state: string;
  result: unknown;
  error: unknown;
  progress: [number, string | undefined][];
};

/** How the run is made, or which one it is; `input` and `slot` are those of a new one. */
export type Given = {
  runId?: string;
  slot?: number;
  input?: Record<string, unknown>;
  signal?: AbortSignal;
  log: Logger;
  /** Between the task's end and that of the run. */
  then?: (runId: string) => Promise<void>;
};

/** Executes a run of the task for a tenant, once. */
export async function executeTask(
  database: TestDatabase,
  tenantId: string,
  entry: TaskEntry,
  given: Given,
): Promise<Ended> {
  const runs = runsOf(database);
  const runId = given.runId ?? (await runs.add(tenantId, entry.kind));
  if (given.slot !== undefined || given.input !== undefined) {
    const text = "update app.job_runs set slot = $2, input = $3 where id = $1";
    await database.superuser.query(text, [runId, given.slot ?? null, given.input ?? {}]);
  }
  const claimed = await runs.claim(tenantId, runId, "test");
  if (claimed === undefined) throw new Error("the run could not be claimed");
  const progress: Ended["progress"] = [];
  const run = runOf(
    database,
    tenantId,
    claimed,
    given,
    entry,
    (done, text) => void progress.push([done, text]),
  );

  const attempt: number = claimed["attempt"];
  try {
    const result = await entry.run!(run);
    await given.then?.(runId);
    const state = await runs.complete(tenantId, runId, attempt, result).catch((error: unknown) => {
      if (error instanceof AppError && error.code === "job_run_fenced") return "fenced";
      throw error;
    });
    return { runId, state, result, error: undefined, progress };
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    const failed = await runs.fail(tenantId, runId, attempt, error.code, error.message);
    return { runId, state: failed["state"], result: undefined, error, progress };
  }
}

function runOf(
  database: TestDatabase,
  tenantId: string,
  claimed: Row,
  { signal = new AbortController().signal, log }: Given,
  entry: TaskEntry,
  progress: Run["progress"],
): Run<unknown> {
  const endsAt = Date.now() + claimed["timeout_ms"];
  const deadline = () => Math.max(0, endsAt - Date.now());
  const unused = () => {
    throw new Error("this task has no use for it");
  };
  return {
    tenantId,
    runId: claimed["run_id"],
    attempt: claimed["attempt"],
    kind: entry.kind,
    slot: claimed["slot"] === null ? null : Number(claimed["slot"]),
    input: entry.input.parse(claimed["input"]),
    signal,
    deadline,
    heartbeat: unused,
    progress,
    log,
    call: (text, values, row) =>
      call(database.service, tenantId, text, values, row, { signal, timeoutMs: deadline() }),
    client: { query: unused, call: unused },
  };
}
