// What the views for people and the gauges look at: runs, workers, pauses, made as the system makes them.
import type { Row } from "./contract.ts";
import type { TestDatabase } from "./database.ts";

/** A psql of people, and the hands that bring the queue into a state. */
export type QueueScene = {
  /** What people see. */
  seen(text: string, values?: unknown[]): Promise<Row[]>;
  /** Any statement, as the superuser. */
  sql(text: string, values?: unknown[]): Promise<Row[]>;
  /** A kind that is not one of the scheduler's; `columns` of app.job_kinds by name. */
  addKind(kind: string, columns?: Record<string, unknown>): Promise<string>;
  /** A run that somebody asks for; `inSeconds` from now. */
  add(tenantId: string, kind: string, inSeconds?: number): Promise<string>;
  claim(tenantId: string, runId: string, worker?: string): Promise<Row | undefined>;
  fail(tenantId: string, runId: string, attempt: number, code: string): Promise<Row>;
  complete(tenantId: string, runId: string, attempt: number): Promise<void>;
  /** A worker lives that serves these kinds, all by default. */
  beat(worker?: string, kinds?: string[]): Promise<void>;
};

/** The scene of a test database. */
export function queueOf(database: TestDatabase): QueueScene {
  const sql = async (text: string, values: unknown[] = []) =>
    (await database.superuser.query(text, values)).rows as Row[];
  const byWorker = async (text: string, values: unknown[]) =>
    (await database.worker.pool.query(text, values)).rows as Row[];
  return {
    sql,
    seen: async (text, values = []) => (await database.ops.query(text, values)).rows,
    async addKind(kind, columns = {}) {
      const all = { kind, description: "For a test.", backoff_base_ms: 60_000, ...columns };
      const names = Object.keys(all);
      await sql(
        `insert into app.job_kinds (${names.join(", ")}) values (${names.map((_, n) => `$${n + 1}`).join(", ")})`,
        Object.values(all),
      );
      return kind;
    },
    async add(tenantId, kind, inSeconds = 0) {
      const [run] = await sql(
        `select (app_private.run_add($1, app_private.uuid_v7(), $2, '{}', now() + $3 * interval '1 second', 0::smallint)).id`,
        [tenantId, kind, inSeconds],
      );
      return run!["id"];
    },
    async claim(tenantId, runId, worker = "host:1:pool-1") {
      const text =
        "select * from app.job_claim(worker => $3, tenant_ids => array[$1::uuid], run_ids => array[$2::uuid])";
      return (await byWorker(text, [tenantId, runId, worker]))[0];
    },
    async fail(tenantId, runId, attempt, code) {
      const text = "select * from app.job_fail($1, $2, $3, $4, $5, 'A test.')";
      return (await byWorker(text, [tenantId, database.ticket(tenantId), runId, attempt, code]))[0]!;
    },
    async complete(tenantId, runId, attempt) {
      const text = "select app.job_complete($1, $2, $3, $4, '{}')";
      await byWorker(text, [tenantId, database.ticket(tenantId), runId, attempt]);
    },
    async beat(worker = "host:1:pool-1", kinds) {
      await sql("delete from app.job_workers where worker = $1", [worker]);
      await byWorker(
        `select * from app.worker_beat(worker => $1, pool => split_part($1, ':', 3), host => split_part($1, ':', 1),
           pid => split_part($1, ':', 2)::int, version => '0.1.0', kinds => $2, concurrency => 4, tenant_ids => '{}',
           run_ids => '{}', attempts => '{}')`,
        [
          worker,
          kinds ?? (await sql("select kind from app.job_kinds order by kind")).map((row) => row["kind"]),
        ],
      );
    },
  };
}

/** How wide psql draws these rows, aligned: each column as wide as its widest value or its name, and ` | ` between. */
export function widthInPsql(rows: Row[]): number {
  const text = (value: unknown) =>
    value === null ? "" : value instanceof Date ? `${value.toISOString().slice(0, 19)}+00` : String(value);
  const widths = Object.keys(rows[0] ?? {}).map((column) =>
    Math.max(column.length, ...rows.map((row) => [...text(row[column])].length)),
  );
  return widths.reduce((sum, width) => sum + width + 2, 0) + widths.length - 1;
}

/** What is wider than a terminal is not watched. */
export const WIDEST = 110;
