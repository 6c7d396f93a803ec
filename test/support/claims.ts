// Kinds with limits, runs in their places, and claims of many at a time, for tests of the queue.
import { randomUUID } from "node:crypto";
import type { Row } from "./contract.ts";
import type { TestDatabase } from "./database.ts";

/** What limits a kind; what is left out does not. */
export type Limits = {
  maxRunning?: number | null;
  maxWaiting?: number;
  ratePerMinute?: number | null;
  rateBurst?: number;
  slotOrder?: number | null;
  maxRetries?: number;
  timeoutSeconds?: number;
};

/** A run, as a worker names it. */
export type Named = { tenantId: string; runId: string };

/** Runs that hold places in the queue. */
export type Claims = {
  /** A kind of a new name. */
  kind(limits?: Limits): Promise<string>;
  /** A run that somebody asks for, in its place; due `seconds` from now. */
  add(tenantId: string, kind: string, options?: { seconds?: number; priority?: number }): Promise<Named>;
  /** So many of them, one statement each in one transaction. */
  addMany(tenantId: string, kind: string, count: number): Promise<Named[]>;
  /** Claims them all in one call, as this worker does. */
  claim(runs: Named[], worker?: string): Promise<Row[]>;
  complete(run: Named, attempt?: number): Promise<void>;
  fail(run: Named, code: string, attempt?: number): Promise<Row>;
  /** The parked runs that may come in, as the sweep of each second lets them; how many. */
  admit(): Promise<number>;
  /** The tokens of a kind that can still wake a worker up. */
  tokens(kind: string): Promise<Row[]>;
  /** The runs of a kind as they stand, in the order in which they were made. */
  runs(kind: string): Promise<Row[]>;
  row(run: Named): Promise<Row>;
  sql(text: string, values?: unknown[]): Promise<Row[]>;
};

/** The claims of a test database. */
export function claimsOf(database: TestDatabase): Claims {
  const { worker, superuser } = database;
  const sql = async (text: string, values: unknown[] = []) =>
    (await superuser.query(text, values)).rows as Row[];
  return {
    sql,
    async kind(limits = {}) {
      const name = `k_${randomUUID().replaceAll("-", "").slice(0, 12)}`;
      await sql(
        `insert into app.job_kinds (kind, max_running, max_waiting, rate_per_minute, rate_burst, slot_order, max_retries,
           timeout_seconds, backoff_base_ms, description)
         values ($1, $2, $3, $4, $5, $6, $7, $8, 1000, 'For a test.')`,
        [
          name,
          limits.maxRunning ?? null,
          limits.maxWaiting ?? 100_000,
          limits.ratePerMinute ?? null,
          limits.rateBurst ?? 1,
          limits.slotOrder ?? null,
          limits.maxRetries ?? 3,
          limits.timeoutSeconds ?? 300,
        ],
      );
      return name;
    },
    async add(tenantId, kind, { seconds = 0, priority = 0 } = {}) {
      const [run] = await sql(
        `select (app_private.run_add($1, app_private.uuid_v7(), $2, '{}', clock_timestamp() + make_interval(secs => $3),
           $4::smallint)).id`,
        [tenantId, kind, seconds, priority],
      );
      return { tenantId, runId: run!["id"] };
    },
    async addMany(tenantId, kind, count) {
      const made = await sql(
        `select (app_private.run_add($1, app_private.uuid_v7(), $2, '{}', now(), 0::smallint)).id
         from generate_series(1, $3)`,
        [tenantId, kind, count],
      );
      return made.map((row) => ({ tenantId, runId: row["id"] }));
    },
    async claim(runs, name = "w1") {
      const { rows } = await worker.pool.query("select * from app.job_claim($1, $2, $3)", [
        name,
        runs.map((run) => run.tenantId),
        runs.map((run) => run.runId),
      ]);
      return rows;
    },
    async complete({ tenantId, runId }, attempt = 1) {
      await worker.pool.query("select app.job_complete($1, $2, $3, $4, '{}')", [
        tenantId,
        database.ticket(tenantId),
        runId,
        attempt,
      ]);
    },
    async fail({ tenantId, runId }, code, attempt = 1) {
      const { rows } = await worker.pool.query("select * from app.job_fail($1, $2, $3, $4, $5, 'x')", [
        tenantId,
        database.ticket(tenantId),
        runId,
        attempt,
        code,
      ]);
      return rows[0];
    },
    admit: async () => (await worker.pool.query("select admitted as n from app.job_admit()")).rows[0].n,
    tokens: (kind) =>
      sql(
        `select j.key, j.priority, j.run_at, r.id as run_id, r.tenant_id
         from graphile_worker._private_jobs as j join app.job_runs as r on r.id = (j.payload ->> 'run_id')::uuid
         where r.kind = $1 and j.attempts < j.max_attempts order by j.priority, j.run_at, j.id`,
        [kind],
      ),
    runs: (kind) => sql("select * from app.job_runs where kind = $1 order by id", [kind]),
    row: async ({ runId }) => (await sql("select * from app.job_runs where id = $1", [runId]))[0]!,
  };
}
