// What a task is: the work of one kind of run, and all that it is given to do it with.
import type { Logger } from "pino";
import { z } from "zod";
import type { Db } from "./db.ts";
import { AppError } from "./errors.ts";
import { jobKindsMissing } from "./jobs.ts";

/** One attempt of one run, as its task sees it. */
export type Run<I = Record<string, unknown>> = {
  readonly tenantId: string;
  readonly runId: string;
  /** Counts the claims, from 1. */
  readonly attempt: number;
  readonly kind: string;
  /** The turn of the scheduler that made it, in seconds since 1970; null when somebody asked for it. */
  readonly slot: number | null;
  /** What was asked, as the task's own schema read it. */
  readonly input: I;
  /** Aborted when time is up, when the run went on without this attempt, when it was cancelled, by a shutdown. */
  readonly signal: AbortSignal;
  /** Milliseconds left of the time limit, never below 0. */
  deadline(): number;
  /**
   * Renews the lease; gives its end. The worker beats for all its runs, so this is only a question: throws
   * `job_run_fenced` or `job_cancelled`, and aborts the attempt.
   */
  heartbeat(): Promise<Date>;
  /** Notes how much is done, 0 to 1, and what it is at; writes once a second at most, the last word. Never fails. */
  progress(done: number, text?: string): void;
  readonly log: Logger;
  /**
   * `call` of db.ts for this tenant, in a transaction of its own as the worker: `$1` and `$2` are the tenant and a
   * ticket. The statement may take the time left, and ends with the signal.
   */
  call<T>(text: string, values: unknown[], row: z.ZodType<T>): Promise<T[]>;
  readonly client: RunClient;
};

/**
 * The work transaction: it begins with the first statement and is committed with the end of the run, or not at all.
 * One statement at a time; those that come meanwhile wait. Refuses after the end of the attempt.
 */
export type RunClient = {
  /** One statement as the tenant, under row security; `$1` and on are `values`. */
  query<R extends Record<string, unknown> = Record<string, unknown>>(
    text: string,
    values?: readonly unknown[],
  ): Promise<{ rows: R[]; rowCount: number }>;
  /** A contract function: `$1` and `$2` are the tenant and a ticket, `values` come after them. */
  call<T>(text: string, values: readonly unknown[], row: z.ZodType<T>): Promise<T[]>;
};

/** Does the work of one kind; what it returns is the result that SQL applies. It must heed `run.signal`. */
export type Task<I = Record<string, unknown>> = (run: Run<I>) => Promise<unknown>;

/**
 * The task of one kind. `input` reads the run's input before it begins; what it refuses is a dead letter. With
 * `thread`, the default export of that module is the task, and runs in a thread of its own: for work that keeps the
 * processor busy, which no signal reaches.
 */
export type TaskEntry<I = unknown> = {
  readonly kind: string;
  readonly input: z.ZodType<I>;
} & ({ run(run: Run<I>): Promise<unknown>; thread?: undefined } | { run?: undefined; readonly thread: URL });

/** The tasks that a worker serves. */
export type Tasks = readonly TaskEntry[];

/** The input of a kind that asks nothing: whatever else is there is left alone. */
export const AnyInput: z.ZodType<Record<string, unknown>> = z.record(z.string(), z.unknown());

/** A task, with the type of its input taken from its schema. */
export function task<I>(entry: TaskEntry<I>): TaskEntry<I> {
  return entry;
}

/** The tasks by their kind. */
export function byKind(tasks: Tasks): ReadonlyMap<string, TaskEntry> {
  return new Map(tasks.map((each) => [each.kind, each]));
}

/** Throws `config_invalid` unless `app.job_kinds` has a row for each task: what its time and its retries are. */
export async function refuseUnknownKinds(db: Db, tasks: Tasks): Promise<void> {
  const missing = await jobKindsMissing(
    db,
    tasks.map((each) => each.kind),
  );
  if (missing.length === 0) return;
  throw new AppError("config_invalid", {
    message: `app.job_kinds has no row for ${missing.join(", ")}, which this worker has tasks for`,
    detail: { kinds: missing },
    hint: "Run npm run db:migrate, or make the row: select * from ops.job_kind_set(...); select * from ops.help shows how.",
  });
}
