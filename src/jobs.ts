// The job functions of the contract, one to one. runs.ts makes the run protocol of them, worker.ts the loops.
import { z } from "zod";
import { type CallOptions, call, type Db, systemCall } from "./db.ts";

/** Where the calls go that see all tenants. */
type System = Pick<Db, "pool" | "onRlsRefusal">;

/** A bigint of SQL that a number holds exactly. */
const Exact = z.string().transform(Number).pipe(z.int());

const ClaimedRun = z.object({
  tenantId: z.guid(),
  runId: z.guid(),
  attempt: z.int(),
  kind: z.string(),
  slot: Exact.nullable(),
  timeoutMs: z.int().positive(),
  leaseUntil: z.date(),
  input: z.record(z.string(), z.unknown()),
  maxAttempts: z.int(),
  fromState: z.enum(["PENDING", "FAILED"]),
});

/**
 * One attempt of a run, ours until `leaseUntil`; `timeoutMs` is the time limit of its kind, `fromState` what the run was
 * before.
 */
export type ClaimedRun = z.infer<typeof ClaimedRun>;

/**
 * Claims these runs for `worker`, each as its next attempt. One that is not answered is taken, has ended, is not there
 * or may not start yet.
 */
export async function jobClaim(
  db: System,
  worker: string,
  runs: readonly { tenantId: string; runId: string }[],
  options?: CallOptions,
): Promise<ClaimedRun[]> {
  const text = `select tenant_id as "tenantId", run_id as "runId", attempt, kind, slot, timeout_ms as "timeoutMs",
                       lease_until as "leaseUntil", input, max_attempts as "maxAttempts",
                       from_state as "fromState"
                from app.job_claim(worker => $1, tenant_ids => $2, run_ids => $3)`;
  const values = [worker, runs.map((run) => run.tenantId), runs.map((run) => run.runId)];
  return systemCall(db, text, values, ClaimedRun, options);
}

/** A worker, as `app.job_workers` lists it; `pool` is its name in graphile-worker. */
export type WorkerFacts = {
  worker: string;
  pool: string;
  host: string;
  pid: number;
  version: string;
  kinds: readonly string[];
  concurrency: number;
};

/** One attempt of a run. */
export type RunAttempt = { tenantId: string; runId: string; attempt: number };

const Verdict = z.object({
  tenantId: z.guid(),
  runId: z.guid(),
  attempt: z.int(),
  verdict: z.enum(["fenced", "cancelled"]),
});

/** An attempt that must end: the run went on without it, or somebody asked for its end. */
export type Verdict = z.infer<typeof Verdict>;

/** Says that the worker lives, and renews the leases of its attempts. Answers those that it must end. */
export async function workerBeat(
  db: System,
  facts: WorkerFacts,
  running: readonly RunAttempt[],
  options?: CallOptions,
): Promise<Verdict[]> {
  const text = `select tenant_id as "tenantId", run_id as "runId", attempt, verdict
                from app.worker_beat(worker => $1, pool => $2, host => $3, pid => $4, version => $5, kinds => $6,
                  concurrency => $7, tenant_ids => $8, run_ids => $9, attempts => $10)`;
  const { worker, pool, host, pid, version, kinds, concurrency } = facts;
  const values = [
    ...[worker, pool, host, pid, version, kinds, concurrency],
    ...[running.map((run) => run.tenantId), running.map((run) => run.runId)],
    running.map((run) => run.attempt),
  ];
  return systemCall(db, text, values, Verdict, options);
}

const Count = z.object({ count: z.int() });

/** The worker has ended in order: it is listed no more. Gives how many tokens it still held; others may take them. */
export async function workerStop(db: System, worker: string, options?: CallOptions): Promise<number> {
  const text = "select app.worker_stop(worker => $1) as count";
  const [unlocked] = await systemCall(db, text, [worker], Count, options);
  return unlocked!.count;
}

const LostWorker = z.object({ worker: z.string(), host: z.string(), pid: z.int(), tokens: z.int() });

/** A worker that was not heard of for 20 s, and how many tokens it held. */
export type LostWorker = z.infer<typeof LostWorker>;

/** Removes the workers that were lost, and gives their tokens back. */
export async function workersReap(db: System, options?: CallOptions): Promise<LostWorker[]> {
  return systemCall(db, "select worker, host, pid, tokens from app.workers_reap()", [], LostWorker, options);
}

const Lease = z.object({ leaseUntil: z.date() });

/**
 * Renews the lease; gives its new end. Throws `job_run_fenced` when the run went on without the attempt, and
 * `job_cancelled` when somebody asked for its end.
 */
export async function jobHeartbeat(
  db: Db,
  tenantId: string,
  runId: string,
  attempt: number,
  options?: CallOptions,
): Promise<Date> {
  const text = `select app.job_heartbeat($1, $2, run_id => $3, attempt => $4) as "leaseUntil"`;
  const [lease] = await call(db, tenantId, text, [runId, attempt], Lease, options);
  return lease!.leaseUntil;
}

const Nothing = z.object({});

/** Notes how much of an attempt is done, 0 to 1, and what it is at. Throws as `jobHeartbeat` does. */
export async function jobProgress(
  db: Db,
  run: RunAttempt,
  done: number,
  text: string | undefined,
  options?: CallOptions,
): Promise<void> {
  const statement = `select from app.job_progress($1, $2, run_id => $3, attempt => $4, progress => $5,
                       progress_text => $6)`;
  await call(db, run.tenantId, statement, [run.runId, run.attempt, done, text], Nothing, options);
}

const Completed = z.object({ state: z.literal("COMPLETED") });

/** What completes an attempt: `$1` and `$2` are the tenant and a ticket, then the run, the attempt, the result. */
export const COMPLETE = {
  text: "select app.job_complete($1, $2, run_id => $3, attempt => $4, result => $5) as state",
  row: Completed,
  values: (run: RunAttempt, result: unknown) => [run.runId, run.attempt, JSON.stringify(result ?? null)],
};

/** Applies the result and ends the run, both or neither. Throws `job_run_fenced`: nothing was applied. */
export async function jobComplete(
  db: Db,
  tenantId: string,
  runId: string,
  attempt: number,
  result: unknown,
  options?: CallOptions,
): Promise<void> {
  const values = COMPLETE.values({ tenantId, runId, attempt }, result);
  await call(db, tenantId, COMPLETE.text, values, COMPLETE.row, options);
}

const CompletedRun = z.object({ runId: z.guid() });

/** A run that was completed. */
export type CompletedRun = z.infer<typeof CompletedRun>;

/** An attempt, and what its task has answered. */
export type EndedAttempt = RunAttempt & { result: unknown };

/**
 * Completes those of these attempts whose kind applies nothing; one that is not answered is to be completed by
 * `jobComplete`, which applies its result or says what has become of the run.
 */
export async function jobCompleteMany(
  db: System,
  ended: readonly EndedAttempt[],
  options?: CallOptions,
): Promise<CompletedRun[]> {
  const text = `select run_id as "runId"
                from app.job_complete_many(tenant_ids => $1, run_ids => $2, attempts => $3, results => $4)`;
  const values = [
    ended.map((each) => each.tenantId),
    ended.map((each) => each.runId),
    ended.map((each) => each.attempt),
    ended.map((each) => JSON.stringify(each.result ?? null)),
  ];
  return systemCall(db, text, values, CompletedRun, options);
}

const Failed = z.object({ state: z.enum(["PENDING", "FAILED", "DEAD_LETTER"]), availableAt: z.date() });

/** How an attempt left its run: PENDING after a shutdown, FAILED until `availableAt`, or a dead letter. */
export type FailedRun = z.infer<typeof Failed>;

/** Ends the attempt without a result; SQL decides what becomes of the run. Throws `job_run_fenced`. */
export async function jobFail(
  db: Db,
  tenantId: string,
  runId: string,
  attempt: number,
  failure: { code: string; message: string },
  options?: CallOptions,
): Promise<FailedRun> {
  const text = `select state, available_at as "availableAt"
                from app.job_fail($1, $2, run_id => $3, attempt => $4, error_code => $5, error => $6)`;
  const values = [runId, attempt, failure.code, failure.message];
  const [failed] = await call(db, tenantId, text, values, Failed, options);
  return failed!;
}

const CohortTick = z.object({
  cohort: z.string(),
  runs: z.int(),
  shards: z.int(),
  overlapped: z.int(),
  duplicates: z.int(),
});

/**
 * What a tick made in one cohort: `runs` for the tenants of `shards` rows of the schedule that were due. `overlapped`
 * turns were passed over because those before had not ended, `duplicates` were there already.
 */
export type CohortTick = z.infer<typeof CohortTick>;

/** Makes runs that are due, of all tenants, at most `maxRuns` or those of one row of the schedule. */
export async function scheduleTick(
  db: System,
  maxRuns: number,
  options?: CallOptions,
): Promise<CohortTick[]> {
  const text = "select cohort, runs, shards, overlapped, duplicates from app.schedule_tick(max_runs => $1)";
  return systemCall(db, text, [maxRuns], CohortTick, options);
}

/** Brings tenants to the cohort that their plan and activity ask for, of all tenants; gives how many. */
export async function tiersDerive(db: System, maxRows: number, options?: CallOptions): Promise<number> {
  const text = "select app.tiers_derive(max_rows => $1) as count";
  const [derived] = await systemCall(db, text, [maxRows], Count, options);
  return derived!.count;
}

const Admitted = z.object({
  admitted: z.int(),
  lastTenantId: z.guid().nullable(),
  lastKind: z.string().nullable(),
});

/** How many runs were admitted, and the tenant and kind after which there are more; null when there are none. */
export type Admitted = z.infer<typeof Admitted>;

/** Admits the parked runs that are due and have a place, of at most `maxPairs` tenants and kinds after `last`. */
export async function jobAdmit(
  db: System,
  maxPairs: number,
  last: Pick<Admitted, "lastTenantId" | "lastKind"> | undefined,
  options?: CallOptions,
): Promise<Admitted> {
  const text = `select admitted, last_tenant_id as "lastTenantId", last_kind as "lastKind"
                from app.job_admit(max_pairs => $1, after_tenant_id => $2, after_kind => $3)`;
  const values = [maxPairs, last?.lastTenantId, last?.lastKind];
  const [admitted] = await systemCall(db, text, values, Admitted, options);
  return admitted!;
}

const ReapedRun = z.object({
  tenantId: z.guid(),
  runId: z.guid(),
  state: z.enum(["FAILED", "DEAD_LETTER"]),
  errorCode: z.string(),
  kind: z.string(),
});

/**
 * A run whose worker was lost: FAILED by `worker_lost`, with a token at once, or a DEAD_LETTER by `poison`.
 */
export type ReapedRun = z.infer<typeof ReapedRun>;

/** Brings back the runs whose worker is gone, of all tenants, and tells what became of each. */
export async function jobReap(db: System, options?: CallOptions): Promise<ReapedRun[]> {
  const text = `select tenant_id as "tenantId", run_id as "runId", state, error_code as "errorCode", kind
                from app.job_reap()`;
  return systemCall(db, text, [], ReapedRun, options);
}

const Repaired = z.object({ lookedAt: z.int(), repaired: z.int() });

/** How many runs were looked at, and how many of them had lost their token. */
export type Repaired = z.infer<typeof Repaired>;

/** Queues the tokens that were lost, of all tenants, among `maxRows` runs that wait. No run changes its state by it. */
export async function tokensRepair(db: System, maxRows: number, options?: CallOptions): Promise<Repaired> {
  const text = `select looked_at as "lookedAt", repaired from app.tokens_repair(max_rows => $1)`;
  const [repaired] = await systemCall(db, text, [maxRows], Repaired, options);
  return repaired!;
}

const Kind = z.object({ kind: z.string() });

/** Those of these kinds that `app.job_kinds` does not have. */
export async function jobKindsMissing(
  db: System,
  kinds: readonly string[],
  options?: CallOptions,
): Promise<string[]> {
  const text = "select kind from unnest(app.job_kinds_missing(kinds => $1)) as kind";
  return (await systemCall(db, text, [kinds], Kind, options)).map((row) => row.kind);
}

const ExpiredHold = z.object({ tenantId: z.guid(), reservationId: z.guid(), runId: z.guid().nullable() });

/** A hold whose time was up; `runId` is null for a call of a client. */
export type ExpiredHold = z.infer<typeof ExpiredHold>;

/** Closes the holds whose time is up, of all tenants, as presumed spent, and tells which. */
export async function llmExpire(db: Db, maxRows: number, options?: CallOptions): Promise<ExpiredHold[]> {
  const text = `select tenant_id as "tenantId", reservation_id as "reservationId", run_id as "runId"
                from app.llm_expire(max_rows => $1)`;
  return systemCall(db, text, [maxRows], ExpiredHold, options);
}

const ResolvedHold = z.object({
  tenantId: z.guid(),
  reservationId: z.guid(),
  status: z.enum(["APPLIED", "WRITTEN_OFF"]),
});

/** A presumed hold that the policy of its tenant has ended: APPLIED is charged in full, WRITTEN_OFF given back. */
export type ResolvedHold = z.infer<typeof ResolvedHold>;

/** Ends presumed holds as the policies of their tenants say, of all tenants, and tells which. */
export async function llmPresumedResolve(
  db: Db,
  maxRows: number,
  options?: CallOptions,
): Promise<ResolvedHold[]> {
  const text = `select tenant_id as "tenantId", reservation_id as "reservationId", status
                from app.llm_presumed_resolve(max_rows => $1)`;
  return systemCall(db, text, [maxRows], ResolvedHold, options);
}

const Maintained = z.object({
  partitionsMade: z.int(),
  partitionsDropped: z.int(),
  rowsSwept: z.coerce.number(),
});

/** What maintenance did: months made ahead of time, months that nobody needs, and old rows that it removed. */
export type Maintained = z.infer<typeof Maintained>;

/**
 * Makes the partitions of the months ahead, drops those that are kept no longer, and removes old rows, of all tenants.
 * There may be more to do while one of the answers is not 0.
 */
export async function maintain(db: Db, options?: CallOptions): Promise<Maintained> {
  const text = `select partitions_made as "partitionsMade", partitions_dropped as "partitionsDropped",
                       rows_swept as "rowsSwept"
                from app.maintain()`;
  const [maintained] = await systemCall(db, text, [], Maintained, options);
  return maintained!;
}
