// What a tenant does with its own runs: one function here for each in SQL.
import { z } from "zod";
import { type CallOptions, call, type Db } from "./db.ts";

const State = z.enum(["PENDING", "RUNNING", "COMPLETED", "FAILED", "DEAD_LETTER"]);

/** The states of a run; see app.job_run_transitions. */
export const JOB_STATES = State.options;

const Enqueued = z.object({
  id: z.uuid(),
  state: State,
  available_at: z.date(),
  created_at: z.date(),
  replayed: z.boolean(),
});

/** A run that was asked for; `replayed`, that an earlier request with the same key made it. */
export type Enqueued = z.infer<typeof Enqueued>;

/** What is asked for: `runAt` is at most 366 days ahead, the lowest `priority`, -100 to 100, goes first. */
export type JobRequest = {
  kind: string;
  input?: unknown;
  runAt?: Date | undefined;
  priority?: number | undefined;
  idempotencyKey?: string | undefined;
};

/**
 * Asks for a run; with the key of an earlier request, gives that one again. Throws `job_kind_unknown`,
 * `job_kind_not_enqueueable`, `job_input_invalid`, `job_queue_full`, `idempotency_conflict` and `argument_invalid`.
 */
export async function jobEnqueue(
  db: Db,
  tenantId: string,
  request: JobRequest,
  options?: CallOptions,
): Promise<Enqueued> {
  const [enqueued] = await call(
    db,
    tenantId,
    `select run_id as id, state, available_at, created_at, replayed
     from app.job_enqueue($1, $2, kind => $3, input => $4, run_at => coalesce($5, now()), idempotency_key => $6,
       priority => $7)`,
    [
      request.kind,
      JSON.stringify(request.input === undefined ? {} : request.input),
      request.runAt ?? null,
      request.idempotencyKey ?? null,
      request.priority ?? 0,
    ],
    Enqueued,
    options,
  );
  return enqueued!;
}

const slot = z.coerce.number().int().nullable();

const Listed = z.object({
  id: z.uuid(),
  kind: z.string(),
  state: State,
  slot,
  attempt: z.int(),
  priority: z.int(),
  progress: z.number().nullable(),
  progress_text: z.string().nullable(),
  error_code: z.string().nullable(),
  error: z.string().nullable(),
  available_at: z.date(),
  created_at: z.date(),
  started_at: z.date().nullable(),
  finished_at: z.date().nullable(),
  cancel_requested_at: z.date().nullable(),
  discarded_at: z.date().nullable(),
});

/**
 * A run as it stands: `slot` is the turn of the scheduler, in seconds since 1970, and null when someone asked for it;
 * `progress` is 0 to 1.
 */
export type Listed = z.infer<typeof Listed>;

/** Which runs are listed: those after the page that ended with the id `before`. */
export type JobPage = {
  state?: string | undefined;
  kind?: string | undefined;
  maxRows: number;
  before?: string | undefined;
};

/** The runs of the tenant, newest first. Throws `argument_invalid`. */
export async function jobList(db: Db, tenantId: string, page: JobPage): Promise<Listed[]> {
  return call(
    db,
    tenantId,
    `select run_id as id, run_kind as kind, run_state as state, slot, attempt, priority, progress, progress_text,
       error_code, error, available_at, created_at, started_at, finished_at, cancel_requested_at, discarded_at
     from app.job_list($1, $2, state => $3, kind => $4, max_rows => $5, before => $6)`,
    [page.state ?? null, page.kind ?? null, page.maxRows, page.before ?? null],
    Listed,
  );
}

const Event = z.object({
  at: z.string(),
  from: State.nullable(),
  to: State,
  attempt: z.int(),
  actor: z.string(),
  reason: z.string().nullable(),
});

const Job = Listed.extend({
  failure_count: z.int(),
  crash_count: z.int(),
  replay_count: z.int(),
  input: z.unknown(),
  result: z.unknown(),
  actor: z.string().nullable(),
  reason: z.string().nullable(),
  events: z.array(Event),
});

/** A run with what it was asked and answered, who last acted on it and why, and its changes of state, oldest first. */
export type Job = z.infer<typeof Job>;

/** One run of the tenant. Throws `job_run_not_found`. */
export async function jobGet(db: Db, tenantId: string, runId: string): Promise<Job> {
  const [job] = await call(
    db,
    tenantId,
    `select $3::uuid as id, kind, state, slot, attempt, priority, progress, progress_text, error_code, error,
       available_at, created_at, started_at, finished_at, cancel_requested_at, discarded_at, failure_count,
       crash_count, replay_count, input, result, actor, reason, events
     from app.job_get($1, $2, run_id => $3)`,
    [runId],
    Job,
  );
  return job!;
}

/** Who does something to a run, and why. */
export type Act = { actor: string; reason: string };

const Cancelled = z.object({
  id: z.uuid(),
  state: State,
  cancel_requested_at: z.date().nullable(),
  finished_at: z.date().nullable(),
  from_state: State.nullable(),
});

/**
 * How a run stands that was cancelled: while it is RUNNING, its worker has up to 20 s to end it. `from_state` is what it
 * was before, null where that has not changed.
 */
export type Cancelled = z.infer<typeof Cancelled>;

/**
 * Ends a run: at once while it waits, soon while it runs, at once in any case with `force`. Throws
 * `job_run_not_found`, `job_ended` and `reason_required`.
 */
export async function jobCancel(
  db: Db,
  tenantId: string,
  runId: string,
  act: Act & { force: boolean },
  options?: CallOptions,
): Promise<Cancelled> {
  const [cancelled] = await call(
    db,
    tenantId,
    `select $3::uuid as id, state, cancel_requested_at, finished_at, from_state
     from app.job_cancel($1, $2, run_id => $3, actor => $4, reason => $5, force => $6)`,
    [runId, act.actor, act.reason, act.force],
    Cancelled,
    options,
  );
  return cancelled!;
}

const Replayed = z.object({ id: z.uuid(), state: State, available_at: z.date(), replay_count: z.int() });

/** A dead letter that is pending again. */
export type Replayed = z.infer<typeof Replayed>;

/**
 * Makes a dead letter pending again, as the same run. Throws `job_run_not_found`, `job_not_dead`, `reason_required`, and
 * `replay_superseded` unless `force`d.
 */
export async function jobReplay(
  db: Db,
  tenantId: string,
  runId: string,
  act: Act & { force: boolean },
  options?: CallOptions,
): Promise<Replayed> {
  const [replayed] = await call(
    db,
    tenantId,
    `select $3::uuid as id, state, available_at, replay_count
     from app.job_replay($1, $2, run_id => $3, actor => $4, reason => $5, force => $6)`,
    [runId, act.actor, act.reason, act.force],
    Replayed,
    options,
  );
  return replayed!;
}

const Discarded = z.object({ id: z.uuid(), state: State, discarded_at: z.date() });

/** A dead letter that was put aside. */
export type Discarded = z.infer<typeof Discarded>;

/** Puts a dead letter aside. Throws `job_run_not_found`, `job_not_dead` and `reason_required`. */
export async function jobDiscard(
  db: Db,
  tenantId: string,
  runId: string,
  act: Act,
  options?: CallOptions,
): Promise<Discarded> {
  const [discarded] = await call(
    db,
    tenantId,
    `select $3::uuid as id, state, discarded_at
     from app.job_discard($1, $2, run_id => $3, actor => $4, reason => $5)`,
    [runId, act.actor, act.reason],
    Discarded,
    options,
  );
  return discarded!;
}
