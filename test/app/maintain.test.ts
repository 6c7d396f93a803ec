// sql/app/maintain.sql and cost_import_sweep.sql: partitions ahead of time, and lines that nobody sees are removed.
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { Row } from "../support/contract.ts";
import { costsOf, usage } from "../support/costs.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const costs = costsOf(database);
let tenantId = "";

const rows = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows as Row[];
const sweep = async (maxRows = 20_000): Promise<number> =>
  (await database.worker.pool.query("select app.cost_import_sweep($1) as n", [maxRows])).rows[0].n;
const maintain = async (): Promise<Row> =>
  (await database.worker.pool.query("select * from app.maintain()")).rows[0];
/** Calls it until nothing is left. */
async function maintainAll(): Promise<void> {
  await expect.poll(async () => (await maintain())["rows_swept"], { interval: 1 }).toBe("0");
}

const lineCount = async (importId: string) => {
  const [count] = await rows(
    `select (select count(*) from app.cost_lines where import_id = $1)::int as lines,
            (select count(*) from app.cost_daily where import_id = $1)::int as days`,
    [importId],
  );
  return [count!["lines"], count!["days"]];
};
const importRow = async (id: string) =>
  (await rows("select * from app.cost_imports where id = $1", [id]))[0]!;

/** A published import of this many lines. */
const load = (lines: number) =>
  costs.load(
    tenantId,
    Array.from({ length: lines }, () => usage("2026-10-10", 1)),
  );

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
});
beforeEach(() => maintainAll());

describe("sweep", () => {
  test("the lines of a superseded import go, in batches; what is seen stays", async () => {
    const old = await load(25);
    const current = await load(3);
    expect(await importRow(old)).toMatchObject({ status: "SUPERSEDED", swept_at: null });
    expect(await sweep(10)).toBe(10);
    expect(await lineCount(old)).toEqual([15, 1]);
    expect(await sweep(10)).toBe(10);
    expect(await sweep(10)).toBeGreaterThan(0);
    expect(await lineCount(old)).toEqual([0, 0]);
    expect(await importRow(old)).toMatchObject({
      status: "SUPERSEDED",
      line_count: "25",
      swept_at: expect.any(Date),
    });
    expect(await sweep(10)).toBe(0);
    expect(await lineCount(current)).toEqual([3, 1]);
  });

  test("so do those of a failed import, of whatever tenant", async () => {
    const other = await database.addTenant();
    const failed = await costs.start(other.tenantId);
    await costs.add(other.tenantId, failed, [usage("2026-10-10", 1)]);
    await costs.fail(other.tenantId, failed, { code: "focus_invalid" });
    await maintainAll();
    expect(await lineCount(failed)).toEqual([0, 0]);
  });

  test("an import that is loading is left for a day, and then has failed", async () => {
    const loading = await costs.start(tenantId);
    await costs.add(tenantId, loading, [usage("2026-10-10", 1)]);
    await rows("update app.cost_imports set started_at = now() - interval '23 hours' where id = $1", [
      loading,
    ]);
    await maintainAll();
    expect(await importRow(loading)).toMatchObject({ status: "LOADING" });
    expect(await lineCount(loading)).toEqual([1, 0]);
    await rows("update app.cost_imports set started_at = now() - interval '25 hours' where id = $1", [
      loading,
    ]);
    await maintainAll();
    expect(await importRow(loading)).toMatchObject({ status: "FAILED", error: { reason: "abandoned" } });
    expect(await lineCount(loading)).toEqual([0, 0]);
  });

  test("a partly replaced import keeps the lines that are still seen", async () => {
    const both = await costs.load(tenantId, [usage("2026-08-10", 1), usage("2026-09-10", 2)]);
    await costs.load(tenantId, [usage("2026-09-10", 3)]);
    await maintainAll();
    const seen = await rows(
      "select import_id from app.cost_lines_current where tenant_id = $1 and charge_period_start = '2026-08-10'",
      [tenantId],
    );
    expect(seen).toEqual([{ import_id: both }]);
  });

  test("many at once remove everything once", async () => {
    const old = await Promise.all([load(30), load(30), load(30)]);
    await load(1);
    const counts = await Promise.all(Array.from({ length: 6 }, () => maintain()));
    await maintainAll();
    expect(counts.reduce((sum, each) => sum + Number(each["rows_swept"]), 0)).toBeGreaterThan(0);
    for (const importId of old) {
      if ((await importRow(importId))["status"] === "SUPERSEDED")
        expect(await lineCount(importId)).toEqual([0, 0]);
    }
    const [orphans] = await rows(
      `select count(*)::int as n from app.cost_lines as l join app.cost_imports as i on i.tenant_id = l.tenant_id and i.id = l.import_id
       where i.status in ('SUPERSEDED', 'FAILED')`,
    );
    expect(orphans).toEqual({ n: 0 });
  });
});

describe("partitions", () => {
  const partitions = () =>
    rows(
      `select c.oid::regclass::text as name, c.relrowsecurity as secured, c.relforcerowsecurity as forced
       from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
       where n.nspname = 'app' and c.relispartition and c.relkind = 'r' order by 1`,
    );

  test("what is missing of the months ahead is made, isolated; the second time nothing is", async () => {
    const before = await partitions();
    const last = before.filter((each) => each["name"].startsWith("app.events_")).at(-1)!["name"];
    await rows(`drop table ${last}`);
    expect(await maintain()).toMatchObject({ partitions_made: 1 });
    expect(await partitions()).toEqual(before);
    expect(before.every((each) => each["secured"] && each["forced"])).toBe(true);
    expect(await maintain()).toMatchObject({ partitions_made: 0, rows_swept: "0" });
  });

  test("a table that stays locked is left for the next time, with a warning; the sweep stands", async () => {
    const before = await partitions();
    const last = before.filter((each) => each["name"].startsWith("app.events_")).at(-1)!["name"];
    await rows(`drop table ${last}`);
    const other = await database.addTenant();
    const old = await costs.load(other.tenantId, [usage("2026-10-10", 1), usage("2026-10-11", 1)]);
    await costs.load(other.tenantId, [usage("2026-10-10", 1)]);
    const [reader, worker] = [await database.superuser.connect(), await database.worker.pool.connect()];
    const heard: string[] = [];
    const hear = (notice: { message?: string | undefined }) => heard.push(notice.message ?? "");
    worker.on("notice", hear);
    try {
      await reader.query("begin; lock table app.events in access share mode");
      const began = performance.now();
      const { rows: maintained } = await worker.query("select * from app.maintain()");
      expect(maintained).toEqual([{ partitions_made: null, rows_swept: "3" }]);
      expect(performance.now() - began).toBeGreaterThan(2_500);
      expect(performance.now() - began).toBeLessThan(10_000);
      expect(heard).toEqual(["app.maintain: no partition was made, for a table stayed locked"]);
      expect(await lineCount(old)).toEqual([0, 0]);
      await reader.query("commit");
      expect((await worker.query("select * from app.maintain()")).rows).toEqual([
        { partitions_made: 1, rows_swept: "0" },
      ]);
      expect(heard).toHaveLength(1);
      expect(await partitions()).toEqual(before);
    } finally {
      worker.off("notice", hear);
      await reader.query("rollback");
      reader.release();
      worker.release();
    }
  });

  test("each table that grows has the month before this one and the three after it", async () => {
    const months = await rows(
      `select p.relname as parent, count(*)::int as months from pg_inherits as i
       join pg_class as p on p.oid = i.inhparent and p.relkind = 'p' join pg_namespace as n on n.oid = p.relnamespace and n.nspname = 'app'
       group by 1 order by 1`,
    );
    expect(months.map((each) => each["parent"])).toEqual([
      "events",
      "job_run_events",
      "job_runs",
      "llm_reservation_budgets",
      "llm_reservations",
      "llm_usage",
    ]);
    for (const each of months) expect(each["months"], each["parent"]).toBeGreaterThanOrEqual(5);
  });
});

test("it refuses the service", async () => {
  for (const text of ["select app.maintain()", "select app.cost_import_sweep()"]) {
    await expect(database.service.pool.query(text)).rejects.toMatchObject({ code: "42501" });
  }
  await database.ops.query("select * from app.maintain()");
});
