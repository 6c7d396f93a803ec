// Calls of the job functions, and what became of a run, for tests.
import { expect } from "vitest";
import { oneAs, type Row } from "./contract.ts";
import type { TestDatabase } from "./database.ts";

/** The job functions as the worker calls them, and the rows behind them. */
export type Runs = {
  /** A kind that applies nothing when it completes. */
  addKind(
    kind: string,
    settings?: { maxRetries?: number; baseMs?: number; capMs?: number; fatal?: string[]; seconds?: number },
  ): Promise<string>;
  /** A pending run whose token was lost; `analysis` unless another kind is named. */
  add(tenantId: string, kind?: string): Promise<string>;
  claim(tenantId: string, runId: string, worker?: string): Promise<Row | undefined>;
  /** A run that worker `w1` has just claimed. */
  running(tenantId: string, kind?: string): Promise<string>;
  beat(tenantId: string, runId: string, attempt: number): Promise<Date>;
  complete(tenantId: string, runId: string, attempt: number, result: unknown): Promise<string>;
  fail(
    tenantId: string,
    runId: string,
    attempt: number,
    code?: string | null,
    error?: string | null,
  ): Promise<Row>;
  /** What was reaped: the answer of `app.job_reap`. */
  reap(maxRows?: number): Promise<Row[]>;
  /** How many tokens were repaired. */
  repair(maxRows?: number): Promise<number>;
  row(runId: string): Promise<Row>;
  /** Brings the moment at which a run may be claimed to now. */
  makeDue(runId: string): Promise<void>;
  /** Its worker was last heard of before its lease ended. */
  loseWorker(runId: string): Promise<void>;
  /**
   * The states that a run has been through; fails where one does not begin with what the one before it ended
   * with.
   */
  history(runId: string): Promise<string[]>;
  /** The tokens of a run in the queue. */
  tokens(runId: string): Promise<Row[]>;
};

/** The runs of a test database. */
export function runsOf({ worker, superuser }: TestDatabase): Runs {
  const rows = async (text: string, values: unknown[] = []) =>
    (await superuser.query(text, values)).rows as Row[];
  const runs: Runs = {
    async addKind(kind, { maxRetries = 3, baseMs = 1_000, capMs = 60_000, fatal = [], seconds = 300 } = {}) {
      await rows(
        `insert into app.job_kinds (kind, max_retries, backoff_base_ms, backoff_cap_ms, non_retryable_codes, timeout_seconds,
           description) values ($1, $2, $3, $4, $5, $6, 'For a test.')`,
        [kind, maxRetries, baseMs, capMs, fatal, seconds],
      );
      return kind;
    },
    async add(tenantId, kind = "analysis") {
      const [run] = await rows(
        "insert into app.job_runs (tenant_id, kind, token_at) values ($1, $2, clock_timestamp()) returning id",
        [tenantId, kind],
      );
      return run!["id"];
    },
    async claim(tenantId, runId, name = "w1") {
      const text = "select * from app.job_claim($1, array[$2::uuid], array[$3::uuid])";
      const { rows: claimed } = await worker.pool.query(text, [name, tenantId, runId]);
      expect(claimed.length).toBeLessThanOrEqual(1);
      return claimed[0];
    },
    async running(tenantId, kind) {
      const runId = await runs.add(tenantId, kind);
      expect(await runs.claim(tenantId, runId)).toMatchObject({ attempt: 1 });
      return runId;
    },
    async beat(tenantId, runId, attempt) {
      const text = "select app.job_heartbeat($1, $2, $3, $4) as lease";
      return (await oneAs(worker, tenantId, text, [runId, attempt]))["lease"];
    },
    async complete(tenantId, runId, attempt, result) {
      const text = "select app.job_complete($1, $2, $3, $4, $5) as state";
      return (await oneAs(worker, tenantId, text, [runId, attempt, JSON.stringify(result)]))["state"];
    },
    fail: (tenantId, runId, attempt, code = "llm_timeout", error = "It took too long.") =>
      oneAs(worker, tenantId, "select * from app.job_fail($1, $2, $3, $4, $5, $6)", [
        runId,
        attempt,
        code,
        error,
      ]),
    reap: async (maxRows = 500) =>
      (await worker.pool.query("select * from app.job_reap($1)", [maxRows])).rows,
    repair: async (maxRows = 500) =>
      (await worker.pool.query("select repaired as n from app.tokens_repair($1)", [maxRows])).rows[0].n,
    row: async (runId) => (await rows("select * from app.job_runs where id = $1", [runId]))[0]!,
    async makeDue(runId) {
      await rows("update app.job_runs set available_at = clock_timestamp() where id = $1", [runId]);
    },
    async loseWorker(runId) {
      await rows(
        "update app.job_runs set lease_until = clock_timestamp() - interval '1 second' where id = $1",
        [runId],
      );
    },
    async history(runId) {
      const events = await rows(
        "select from_state, to_state from app.job_run_events where run_id = $1 order by id",
        [runId],
      );
      const states = events.map((event) => event["to_state"]);
      expect(events.map((event) => event["from_state"])).toEqual([null, ...states.slice(0, -1)]);
      return states;
    },
    tokens: (runId) =>
      rows(
        `select t.identifier as task, j.key, j.priority, j.max_attempts, j.attempts, j.run_at, j.payload
         from graphile_worker._private_jobs as j join graphile_worker._private_tasks as t on t.id = j.task_id
         where j.payload ->> 'run_id' = $1 order by j.id`,
        [runId],
      ),
  };
  return runs;
}
