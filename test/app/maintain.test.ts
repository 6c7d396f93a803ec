// sql/app/maintain.sql, cost_import_sweep.sql and job_sweep.sql: partitions ahead of time and those that go, and the rows
// that nobody needs.
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
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
    expect(await maintain()).toMatchObject({ partitions_made: 1, partitions_dropped: 0 });
    expect(await partitions()).toEqual(before);
    expect(before.every((each) => each["secured"] && each["forced"])).toBe(true);
    expect(await maintain()).toMatchObject({ partitions_made: 0, partitions_dropped: 0, rows_swept: "0" });
  });

  test("a table that stays locked is left for the next time, with a warning; the others and the sweep stand", async () => {
    const before = await partitions();
    const lastOf = (table: string) =>
      before.filter((each) => each["name"].startsWith(`app.${table}_y`)).at(-1)!["name"] as string;
    await rows(`drop table ${lastOf("events")}, ${lastOf("job_runs")}, ${lastOf("llm_usage")}`);
    const other = await database.addTenant();
    const old = await costs.load(other.tenantId, [usage("2026-10-10", 1), usage("2026-10-11", 1)]);
    await costs.load(other.tenantId, [usage("2026-10-10", 1)]);
    const [reader, worker] = [await database.superuser.connect(), await database.worker.pool.connect()];
    const heard: string[] = [];
    const hear = (notice: { message?: string | undefined }) => heard.push(notice.message ?? "");
    worker.on("notice", hear);
    try {
      await reader.query("begin; lock table app.events, app.llm_usage in access share mode");
      const began = performance.now();
      const { rows: maintained } = await worker.query("select * from app.maintain()");
      // The first is waited for while nothing is held; once a table is locked, no other is waited for.
      expect(maintained).toEqual([{ partitions_made: 1, partitions_dropped: 0, rows_swept: "3" }]);
      expect(performance.now() - began).toBeGreaterThan(2_500);
      expect(performance.now() - began).toBeLessThan(5_000);
      expect(heard).toEqual([
        "app_private.partitions_make: app.events stayed locked and is left for the next time",
        "app_private.partitions_make: app.llm_usage stayed locked and is left for the next time",
      ]);
      expect(await lineCount(old)).toEqual([0, 0]);
      await reader.query("commit");
      expect((await worker.query("select * from app.maintain()")).rows).toEqual([
        { partitions_made: 2, partitions_dropped: 0, rows_swept: "0" },
      ]);
      expect(heard).toHaveLength(2);
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

describe("months that are kept no longer", () => {
  // Their names sort before those of today, and nobody else's rows are in them.
  const MONTHS = ["2024-11", "2024-12", "2025-01"];
  const TABLES = ["events", "job_run_events", "job_runs", "llm_usage"];
  const partOf = (table: string, month: string) => `app.${table}_y${month.replace("-", "m")}`;
  const standing = async () =>
    (
      await rows(
        `select c.oid::regclass::text as name from pg_class as c
         where c.relispartition and c.relkind = 'r' and c.relname ~ '_y202[45]m' order by 1`,
      )
    ).map((each) => each["name"]);
  /** A run that was made in the middle of a month, as it stands today. */
  async function addRun(month: string, columns: Record<string, unknown> = {}): Promise<string> {
    const set = { state: "COMPLETED", finished_at: `${month}-16T00:00Z`, ...columns };
    const [run] = await rows(
      `insert into app.job_runs (tenant_id, id, kind, ${Object.keys(set).join(", ")})
       values ($1, (overlay(app_private.uuid_v7_floor($2)::text placing substr(gen_random_uuid()::text, 10) from 10))::uuid,
         'analysis', ${Object.keys(set)
           .map((_, index) => `$${index + 3}`)
           .join(", ")}) returning id`,
      [tenantId, `${month}-15T00:00Z`, ...Object.values(set)],
    );
    return run!["id"];
  }
  const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000);
  const keepFor = (days: number) =>
    rows("update app.retentions set keep = make_interval(days => $1)", [days]);
  const dropped = async () => (await maintain())["partitions_dropped"];

  beforeEach(async () => {
    await keepFor(90);
    for (const table of TABLES)
      for (const month of MONTHS)
        await rows("call app_private.partition_add($1, $2)", [`app.${table}`, `${month}-01T00:00Z`]);
  });
  afterEach(async () => {
    await keepFor(90);
    await rows("alter table app.job_runs disable trigger _100_transition");
    await rows("delete from app.job_runs where id < app_private.uuid_v7_floor('2026-01-01Z')");
    await rows("alter table app.job_runs enable trigger _100_transition");
    for (const name of await standing()) await rows(`drop table ${name}`);
  });

  test("go, of the tables that are listed; what was paid stays for ever", async () => {
    await addRun("2024-12");
    expect(await dropped()).toBe(9);
    expect(await standing()).toEqual(MONTHS.map((month) => partOf("llm_usage", month)));
    expect(await dropped()).toBe(0);
    await expect(
      rows("insert into app.retentions (table_name, keep) values ('llm_usage', '31 days')"),
    ).rejects.toMatchObject({ code: "23514", constraint: "retentions_table_known" });
    await expect(rows("update app.retentions set keep = '30 days'")).rejects.toMatchObject({
      constraint: "retentions_keep_sane",
    });
  });

  test("only when their last row is old enough", async () => {
    const age = (Date.now() - Date.parse("2025-01-01T00:00Z")) / 86_400_000;
    await keepFor(Math.ceil(age)); // December 2024 has ended less than that ago, November more
    expect(await dropped()).toBe(3);
    expect(await standing()).not.toContain(partOf("events", "2024-11"));
    expect(await standing()).toContain(partOf("events", "2024-12"));
    await keepFor(Math.floor(age));
    expect(await dropped()).toBe(3);
    expect(await standing()).toContain(partOf("events", "2025-01"));
  });

  test.each([
    ["waits", { state: "PENDING", finished_at: null }],
    [
      "runs",
      {
        state: "RUNNING",
        finished_at: null,
        lease_until: new Date(Date.now() + 60_000),
        token_at: new Date(),
      },
    ],
    ["is tried again", { state: "FAILED", finished_at: null, error_code: "x" }],
    ["waits for a person", { state: "DEAD_LETTER", finished_at: daysAgo(170), error_code: "x" }],
  ])("a month stays whole with a run that %s, and goes after it", async (_what, columns) => {
    const runId = await addRun("2024-12", columns);
    await addRun("2024-12");
    await addRun("2025-01");
    // Its events are in its own month or in later ones.
    expect(await dropped()).toBe(6);
    expect(await standing()).toContain(partOf("job_runs", "2024-12"));
    expect(await standing()).toContain(partOf("job_run_events", "2025-01"));
    expect((await rows("select from app.job_runs where id = $1", [runId])).length).toBe(1);

    await rows("alter table app.job_runs disable trigger user");
    await rows(
      "update app.job_runs set state = 'COMPLETED', lease_until = null, finished_at = now() where id = $1",
      [runId],
    );
    await rows("alter table app.job_runs enable trigger user");
    expect(await dropped()).toBe(3);
  });

  test.each([
    ["was discarded", { finished_at: daysAgo(100), discarded_at: daysAgo(99) }],
    ["waited for a person twice as long in vain", { finished_at: daysAgo(190) }],
  ])("a dead letter that %s goes with its month", async (_what, columns) => {
    await addRun("2024-12", { state: "DEAD_LETTER", error_code: "x", ...columns });
    expect(await dropped()).toBe(9);
  });

  test("a partition that is not what its name says is nobody's month", async () => {
    await rows(`drop table ${partOf("events", "2024-12")}`);
    // Half a month, under the name of the whole.
    await rows(
      `do $$ begin execute format('create table ${partOf("events", "2024-12")} partition of app.events for values from (%L) to (%L)',
         app_private.uuid_v7_floor('2024-12-01Z'), app_private.uuid_v7_floor('2024-12-15Z')); end $$`,
    );
    expect(await dropped()).toBe(8);
    expect(await standing()).toContain(partOf("events", "2024-12"));
  });

  test("a table that stays locked is left, with a warning; the others go; and nothing is dropped twice", async () => {
    const [reader, worker] = [await database.superuser.connect(), await database.worker.pool.connect()];
    const heard: string[] = [];
    const hear = (notice: { message?: string | undefined }) => heard.push(notice.message ?? "");
    worker.on("notice", hear);
    try {
      await reader.query("begin; lock table app.job_run_events in access share mode");
      const { rows: maintained } = await worker.query("select * from app.maintain()");
      expect(maintained).toMatchObject([{ partitions_dropped: 6 }]);
      expect(heard).toEqual([
        "app_private.partitions_drop: app.job_run_events stayed locked and is left for the next time",
      ]);
      await reader.query("commit");
      const counts = await Promise.all([dropped(), dropped(), dropped()]);
      expect(counts.reduce((sum, each) => sum + each, 0)).toBeGreaterThanOrEqual(3);
      expect(await standing()).toEqual(MONTHS.map((month) => partOf("llm_usage", month)));
    } finally {
      worker.off("notice", hear);
      await reader.query("rollback");
      reader.release();
      worker.release();
    }
  });
});

describe("slots and keys of runs", () => {
  const sweepJobs = async (maxRows = 20_000): Promise<number> =>
    (await database.worker.pool.query("select app.job_sweep($1) as n", [maxRows])).rows[0].n;
  const slotsOf = async (whose: string) =>
    (
      await rows("select kind, slot::int as slot from app.job_slots where tenant_id = $1 order by 1, 2", [
        whose,
      ])
    ).map((each) => `${each["kind"]} ${each["slot"]}`);
  const HOUR = 3_600;
  const now = () => Math.floor(Date.now() / 1_000);
  const addSlots = (whose: string, kind: string, slots: number[]) =>
    rows(
      "insert into app.job_slots (tenant_id, kind, slot, run_id) select $1, $2, s, gen_random_uuid() from unnest($3::bigint[]) as s",
      [whose, kind, slots],
    );

  test("the slots of two days stay, and the last one of each tenant and kind for ever", async () => {
    const [busy, quiet] = [(await database.addTenant()).tenantId, (await database.addTenant()).tenantId];
    const at = now();
    await addSlots(busy, "detection", [at - 50 * HOUR, at - 49 * HOUR, at - 47 * HOUR, at]);
    await addSlots(busy, "analysis", [at - 60 * HOUR]);
    await addSlots(quiet, "detection", [at - 500 * HOUR, at - 400 * HOUR, at - 300 * HOUR]);
    expect(await sweepJobs(3)).toBe(3);
    expect(await sweepJobs(3)).toBe(1);
    expect(await sweepJobs(3)).toBe(0);
    expect(await slotsOf(busy)).toEqual([
      `analysis ${at - 60 * HOUR}`,
      `detection ${at - 47 * HOUR}`,
      `detection ${at}`,
    ]);
    expect(await slotsOf(quiet)).toEqual([`detection ${at - 300 * HOUR}`]);
  });

  test("eight at once remove each once, and what somebody holds is passed over", async () => {
    const whose = (await database.addTenant()).tenantId;
    const old = Array.from({ length: 400 }, (_, index) => now() - (100 + index) * HOUR);
    await addSlots(whose, "detection", [...old, now()]);
    const holder = await database.superuser.connect();
    try {
      await holder.query("begin");
      await holder.query("select from app.job_slots where tenant_id = $1 and slot = $2 for update", [
        whose,
        old[7],
      ]);
      const counts = await Promise.all(Array.from({ length: 8 }, () => sweepJobs(60)));
      counts.push(await sweepJobs(60));
      while (counts.at(-1)! > 0) counts.push(await sweepJobs(60));
      expect(counts.reduce((sum, each) => sum + each, 0)).toBe(399);
    } finally {
      await holder.query("rollback");
      holder.release();
    }
    expect((await maintain())["rows_swept"]).toBe("1");
    expect(await slotsOf(whose)).toHaveLength(1);
  });

  test("keys are kept for 30 days", async () => {
    await rows(
      `insert into app.job_run_keys (tenant_id, idempotency_key, fingerprint, run_id, created_at)
       select $1, 'key ' || d, 'f', gen_random_uuid(), now() - make_interval(days => d)
       from unnest(array[29, 31, 32]) as d`,
      [tenantId],
    );
    expect(await sweepJobs(1)).toBe(1);
    expect((await maintain())["rows_swept"]).toBe("1");
    const left = await rows("select idempotency_key as key from app.job_run_keys where tenant_id = $1", [
      tenantId,
    ]);
    expect(left).toEqual([{ key: "key 29" }]);
  });
});

test("keys of reservations are kept for 30 days", async () => {
  await rows(
    `insert into app.llm_reservation_keys (tenant_id, idempotency_key, fingerprint, reservation_id, created_at)
     select $1, 'key ' || d, 'f', gen_random_uuid(), now() - make_interval(days => d)
     from unnest(array[29, 31, 32]) as d`,
    [tenantId],
  );
  expect((await database.worker.pool.query("select app.llm_sweep(1) as n")).rows).toEqual([{ n: 1 }]);
  expect((await maintain())["rows_swept"]).toBe("1");
  expect((await maintain())["rows_swept"]).toBe("0");
  const left = "select idempotency_key as key from app.llm_reservation_keys where tenant_id = $1";
  expect(await rows(left, [tenantId])).toEqual([{ key: "key 29" }]);
});

test("it refuses the service", async () => {
  for (const sweep of ["maintain", "cost_import_sweep", "job_sweep", "llm_sweep"]) {
    await expect(database.service.pool.query(`select app.${sweep}()`)).rejects.toMatchObject({
      code: "42501",
    });
  }
  await database.ops.query("select * from app.maintain()");
});

test("tokens that a pool holds which no worker has are given back after a minute", async () => {
  await rows(`insert into app.job_workers (worker, pool, host, pid, version, kinds, concurrency)
    values ('here:1:pool-here', 'pool-here', 'here', 1, '1', '{}', 1)`);
  await rows("select graphile_worker.add_job('run', '{}') from generate_series(1, 3)");
  const hold = (pool: string, seconds: number) =>
    rows(
      `update graphile_worker._private_jobs set locked_by = $1, locked_at = now() - make_interval(secs => $2)
       where id = (select min(id) from graphile_worker._private_jobs where locked_by is null)`,
      [pool, seconds],
    );
  await hold("pool-here", 300);
  await hold("pool-gone", 300);
  await hold("pool-new", 10);
  await maintain();
  const held = await rows("select locked_by from graphile_worker._private_jobs where locked_by is not null");
  expect(held.map((row) => row["locked_by"]).sort()).toEqual(["pool-here", "pool-new"]);
});
