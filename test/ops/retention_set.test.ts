// sql/ops/retention_set.sql and retentions.sql: a person says how long the rows of a table are kept.
import { afterEach, describe, expect, test } from "vitest";
import { type Row, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();

const rows = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows as Row[];
const set = async (
  table: unknown,
  keep: unknown,
  reason: unknown = "an audit",
  dryRun = false,
): Promise<Row[]> =>
  (
    await database.ops.query(
      "select before_keep::text, after_keep::text, would_drop from ops.retention_set($1, $2, $3, $4)",
      [table, keep, reason, dryRun],
    )
  ).rows;
const retentions = async (): Promise<Row[]> =>
  (
    await database.ops.query(
      `select table_name, keep::text, months_kept::int, oldest::text, drops_next::text
       from ops.retentions`,
    )
  ).rows;
const audits = () =>
  rows("select subject, reason, before, after from ops.audit_log where action = 'retention_set'");

afterEach(async () => {
  await rows("update app.retentions set keep = '90 days'");
  await rows("delete from ops.audit_log");
  await rows("drop table if exists app.events_y2025m02, app.events_y2025m03");
});

test("ops.retentions shows what is kept of each table, the oldest month, and when it may go", async () => {
  const before = await retentions();
  expect(before.map((row) => [row["table_name"], row["keep"]])).toEqual([
    ["events", "90 days"],
    ["job_run_events", "90 days"],
    ["job_runs", "90 days"],
  ]);
  expect(before[0]!["months_kept"]).toBeGreaterThanOrEqual(5);
  await rows("call app_private.partition_add('app.events', '2025-02-01T00:00Z')");
  await rows("call app_private.partition_add('app.events', '2025-03-01T00:00Z')");
  // Months are UTC's, wherever the person is.
  const client = await database.ops.connect();
  for (const zone of ["UTC", "America/New_York", "Pacific/Kiritimati"]) {
    await client.query(`set timezone = '${zone}'`);
    const { rows: seen } = await client.query(
      `select oldest::text, drops_next::text, not_before = '2025-03-01T00:00Z'::timestamptz + interval '90 days' as right,
         months_kept::int from ops.retentions where table_name = 'events'`,
    );
    expect(seen).toEqual([
      {
        oldest: "2025-02-01",
        drops_next: "app.events_y2025m02",
        right: true,
        months_kept: before[0]!["months_kept"] + 2,
      },
    ]);
  }
  client.release(true);
});

describe("ops.retention_set", () => {
  test("sets it, says what would go, and leaves a trace", async () => {
    await rows("call app_private.partition_add('app.events', '2025-02-01T00:00Z')");
    await rows("call app_private.partition_add('app.events', '2025-03-01T00:00Z')");
    expect(await set("events", "100 years")).toEqual([
      { before_keep: "90 days", after_keep: "100 years", would_drop: "0" },
    ]);
    expect(await set("events", "31 days")).toEqual([
      { before_keep: "100 years", after_keep: "31 days", would_drop: "2" },
    ]);
    expect((await retentions())[0]).toMatchObject({ keep: "31 days" });
    expect(await audits()).toEqual([
      { subject: "events", reason: "an audit", before: { keep: "90 days" }, after: { keep: "100 years" } },
      { subject: "events", reason: "an audit", before: { keep: "100 years" }, after: { keep: "31 days" } },
    ]);
    const { rows: maintained } = await database.ops.query("select * from app.maintain()");
    expect(maintained).toMatchObject([{ partitions_dropped: 2 }]);
  });

  test("a dry run changes nothing", async () => {
    expect(await set("job_runs", "40 days", "a look", true)).toMatchObject([{ after_keep: "40 days" }]);
    expect((await retentions())[2]).toMatchObject({ keep: "90 days" });
    expect(await audits()).toEqual([]);
  });

  test.each([
    ["a table of money", "llm_usage", "90 days"],
    ["a table that is not there", "nothing", "90 days"],
    ["no table", null, "90 days"],
    ["less than a month", "events", "30 days"],
    ["no time", "events", null],
  ])("it refuses %s", async (_what, table, keep) => {
    expect(await raised(set(table, keep))).toMatchObject({ name: "argument_invalid", sqlstate: "OP102" });
    expect(await audits()).toEqual([]);
  });

  test("it refuses without a reason, and everybody but people", async () => {
    expect(await raised(set("events", "60 days", " "))).toMatchObject({ name: "reason_required" });
    for (const pool of [database.service.pool, database.worker.pool])
      await expect(pool.query("select ops.retention_set('events', '60 days', 'why')")).rejects.toMatchObject({
        code: "42501",
      });
  });
});
