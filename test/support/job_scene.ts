// Kinds and runs for the tests of the run protocol and of the worker, and a log that can be read back.
import { setTimeout as sleep } from "node:timers/promises";
import pino, { type Logger } from "pino";
import { expect } from "vitest";
import { type EndedAttempt, jobClaim, jobCompleteMany } from "../../src/jobs.ts";
import { coalesced } from "../../src/runs/coalesced.ts";
import type { Observe, RunDeps, RunToken } from "../../src/runs.ts";
import { AnyInput, type Task, type TaskEntry } from "../../src/tasks.ts";
import type { TestDatabase } from "./database.ts";

/** What the superuser sees: a look behind the curtain, or a thing broken on purpose. */
export async function sql<T extends Record<string, unknown>>(
  { superuser }: TestDatabase,
  text: string,
  values: unknown[] = [],
): Promise<T[]> {
  return (await superuser.query<T>(text, values)).rows;
}

/** A kind of run; absent settings are those that keep a test quick. */
export async function addKind(
  database: TestDatabase,
  kind: string,
  settings: {
    timeoutSeconds?: number;
    maxRetries?: number;
    backoffMs?: number;
    nonRetryable?: string[];
  } = {},
): Promise<string> {
  await sql(
    database,
    `insert into app.job_kinds
       (kind, timeout_seconds, max_retries, backoff_base_ms, non_retryable_codes, description)
     values ($1, $2, $3, $4, $5, 'For a test.')`,
    [
      kind,
      settings.timeoutSeconds ?? 30,
      settings.maxRetries ?? 3,
      settings.backoffMs ?? 20,
      settings.nonRetryable ?? [],
    ],
  );
  return kind;
}

/** A run that is due, with its token. */
export async function addRun(
  database: TestDatabase,
  tenantId: string,
  kind: string,
  input = {},
): Promise<string> {
  const [run] = await sql<{ id: string }>(
    database,
    "insert into app.job_runs (tenant_id, kind, input, token_at) values ($1, $2, $3, now()) returning id",
    [tenantId, kind, input],
  );
  await sql(database, "select app_private.runs_token(array[$1::uuid], array[$2::uuid])", [tenantId, run!.id]);
  return run!.id;
}

/** Tasks whose input may be anything. */
export function tasksOf(handlers: Record<string, Task>): TaskEntry[] {
  return Object.entries(handlers).map(([kind, run]) => ({ kind, input: AnyInput, run }) as TaskEntry);
}

/** What a run needs from its worker; the runs have the connections of this database. */
export function depsOf(
  database: TestDatabase,
  worker: string,
  given: Pick<RunDeps, "log"> & Partial<RunDeps>,
): RunDeps {
  const db = database.worker;
  return {
    db,
    work: database.service,
    claim: coalesced((runs: RunToken[]) => jobClaim(db, worker, runs)),
    complete: coalesced((ended: EndedAttempt[]) => jobCompleteMany(db, ended)),
    live: new Set(),
    ...given,
  };
}

/** Measures nothing but what a test asks for. */
export function observing(some: Partial<Observe>): Observe {
  const nothing = () => {};
  return {
    ...{ jobSeconds: nothing, jobTimeout: nothing, jobWait: nothing, claimSeconds: nothing },
    ...{ commitSeconds: nothing, reaped: nothing, handlersLeaked: nothing, schedulerDeadlock: nothing },
    ...{ tick: nothing, transition: nothing },
    ...some,
  };
}

/** The changes of state that are told to `transition`: how many, by "RUNNING COMPLETED" and the like. */
export function transitionsTold(): { told: Record<string, number> } & Pick<Observe, "transition"> {
  const told: Record<string, number> = {};
  const transition = (from: string, to: string, count = 1) => {
    if (count > 0) told[`${from} ${to}`] = (told[`${from} ${to}`] ?? 0) + count;
  };
  return { told, transition };
}

export type RunRow = {
  state: string;
  attempt: number;
  failure_count: number;
  crash_count: number;
  result: unknown;
  error_code: string | null;
  error: string | null;
  worker: string | null;
  /** Milliseconds from now on; null when the run waits for nothing. */
  wait_ms: number;
};

/** A run as it stands. */
export async function runRow(database: TestDatabase, runId: string): Promise<RunRow> {
  const [row] = await sql<RunRow>(
    database,
    `select state, attempt, failure_count, crash_count, result, error_code, error, worker,
       (extract(epoch from available_at - clock_timestamp()) * 1000)::float as wait_ms
     from app.job_runs where id = $1`,
    [runId],
  );
  return row!;
}

/** The states that a run has had, from its audit trail; each change must begin where the last one ended. */
export async function history(database: TestDatabase, runId: string): Promise<string[]> {
  const events = await sql<{ from_state: string | null; to_state: string }>(
    database,
    "select from_state, to_state from app.job_run_events where run_id = $1 order by id",
    [runId],
  );
  expect(events.map((event) => event.from_state)).toEqual([
    null,
    ...events.slice(0, -1).map((event) => event.to_state),
  ]);
  return events.map((event) => event.to_state);
}

export type Line = Record<string, unknown> & { msg: string };

/** A log, and what was written to it. */
export function journal(): { log: Logger; lines: Line[]; messages(runId?: string): string[] } {
  const lines: Line[] = [];
  const log = pino({ level: "debug" }, { write: (line: string) => lines.push(JSON.parse(line)) });
  const messages = (runId?: string) =>
    lines.filter((line) => runId === undefined || line["run_id"] === runId).map((line) => line.msg);
  return { log, lines, messages };
}

/** Waits until `look` finds something, and gives it; fails after `ms`. */
export async function until<T>(
  look: () => Promise<T | undefined | false> | T | undefined | false,
  ms = 10_000,
): Promise<T> {
  const end = performance.now() + ms;
  for (;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > end) throw new Error(`waited ${ms} ms in vain for ${look}`);
    await sleep(20);
  }
}
