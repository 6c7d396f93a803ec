// The job functions of the contract, one to one. runs.ts makes the run protocol of them, worker.ts the loops.
import { z } from "zod";
import { type CallOptions, call, type Db, systemCall } from "./db.ts";

const ClaimedRun = z.object({
  attempt: z.int(),
  kind: z.string(),
  timeoutMs: z.int().positive(),
  leaseUntil: z.date(),
  input: z.record(z.string(), z.unknown()),
  maxAttempts: z.int(),
});

/** One attempt of a run, ours until `leaseUntil`; `timeoutMs` is the time limit of its kind. */
export type ClaimedRun = z.infer<typeof ClaimedRun>;

/**
 * Claims the run for `worker`, as its next attempt; undefined when it is taken, has ended, or is not due. Throws
 * `job_run_not_found` for a run that is not there, another tenant's too.
 */
export async function jobClaim(
  db: Db,
  tenantId: string,
  runId: string,
  worker: string,
  options?: CallOptions,
): Promise<ClaimedRun | undefined> {
  const text = `select attempt, kind, timeout_ms as "timeoutMs", lease_until as "leaseUntil", input,
                       max_attempts as "maxAttempts"
                from app.job_claim($1, $2, run_id => $3, worker => $4)`;
  const [claimed] = await call(db, tenantId, text, [runId, worker], ClaimedRun, options);
  return claimed;
}

const Lease = z.object({ leaseUntil: z.date() });

/** Renews the lease; gives its new end. Throws `job_run_fenced` when the run went on without the attempt. */
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

const Completed = z.object({ state: z.literal("COMPLETED") });

/** Applies the result and ends the run, both or neither. Throws `job_run_fenced`: nothing was applied. */
export async function jobComplete(
  db: Db,
  tenantId: string,
  runId: string,
  attempt: number,
  result: unknown,
  options?: CallOptions,
): Promise<void> {
  const text = "select app.job_complete($1, $2, run_id => $3, attempt => $4, result => $5) as state";
  await call(db, tenantId, text, [runId, attempt, JSON.stringify(result ?? null)], Completed, options);
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

const Tick = z.object({ runs: z.int(), shards: z.int() });

/** What a tick made: `runs` for the tenants of `shards` rows of the schedule that were due. */
export type Tick = z.infer<typeof Tick>;

/** Makes the runs that are due, of all tenants, for at most `maxShards` rows of the schedule. */
export async function scheduleTick(db: Db, maxShards: number, options?: CallOptions): Promise<Tick> {
  const text = "select runs, shards from app.schedule_tick(max_shards => $1)";
  const [tick] = await systemCall(db, text, [maxShards], Tick, options);
  return tick!;
}

const ReapedRun = z.object({
  tenantId: z.guid(),
  runId: z.guid(),
  state: z.enum(["FAILED", "DEAD_LETTER"]),
  errorCode: z.string(),
});

/**
 * A run whose worker was lost: FAILED by `worker_lost`, with a token at once, or a DEAD_LETTER by `poison`.
 */
export type ReapedRun = z.infer<typeof ReapedRun>;

/** Brings back the runs whose worker is gone, of all tenants, and tells what became of each. */
export async function jobReap(db: Db, options?: CallOptions): Promise<ReapedRun[]> {
  const text = `select tenant_id as "tenantId", run_id as "runId", state, error_code as "errorCode"
                from app.job_reap()`;
  return systemCall(db, text, [], ReapedRun, options);
}

const Count = z.object({ count: z.int() });

/** Queues the tokens that were lost, of all tenants; gives how many. No run changes its state by it. */
export async function tokensRepair(db: Db, options?: CallOptions): Promise<number> {
  const [repaired] = await systemCall(db, "select app.tokens_repair() as count", [], Count, options);
  return repaired!.count;
}

const ExpiredHold = z.object({ tenantId: z.guid(), reservationId: z.guid(), runId: z.guid().nullable() });

/** A hold whose time was up; `runId` is null for a call of a client. */
export type ExpiredHold = z.infer<typeof ExpiredHold>;

/** Closes the holds whose time is up, of all tenants, as presumed spent, and tells which. */
export async function llmExpire(db: Db, options?: CallOptions): Promise<ExpiredHold[]> {
  const text = `select tenant_id as "tenantId", reservation_id as "reservationId", run_id as "runId"
                from app.llm_expire()`;
  return systemCall(db, text, [], ExpiredHold, options);
}

const Maintained = z.object({ partitionsMade: z.int().nullable(), rowsSwept: z.coerce.number() });

/** What maintenance did: months made ahead of time, and lines removed that no import shows any more. */
export type Maintained = z.infer<typeof Maintained>;

/** Makes the partitions of the months ahead and removes what imports have superseded, of all tenants. */
export async function maintain(db: Db, options?: CallOptions): Promise<Maintained> {
  const text = `select partitions_made as "partitionsMade", rows_swept as "rowsSwept" from app.maintain()`;
  const [maintained] = await systemCall(db, text, [], Maintained, options);
  return maintained!;
}
