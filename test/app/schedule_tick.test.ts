// sql/app/schedule_tick.sql: the runs that are due, made once, whoever ticks.
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { createPool } from "../../src/db.ts";
import { besides, type Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { runsOf } from "../support/runs.ts";

const database = testDatabase();
const runs = runsOf(database);
const pool = createPool({
  connectionString: database.url("holdfast_worker"),
  application_name: "test",
  max: 32,
});

const rows = async (text: string, values: unknown[] = []) =>
  (await database.superuser.query(text, values)).rows as Row[];
const tick = async (maxShards = 16): Promise<{ runs: number; shards: number }> =>
  (await pool.query("select * from app.schedule_tick($1)", [maxShards])).rows[0];
const deadlocks = async () =>
  (await rows("select deadlocks::int as n from pg_stat_database where datname = current_database()"))[0]![
    "n"
  ] as number;

/** Tenants as ops.tenant_add makes them, many in one statement; gives their ids. */
async function addTenants(count: number, tier: string): Promise<string[]> {
  const made = await rows(
    `insert into app.tenants (name, tier) select 'tenant ' || gen_random_uuid(), $2 from generate_series(1, $1)
     returning tenant_id`,
    [count, tier],
  );
  return made.map((row) => row["tenant_id"]);
}

/** Only the shards of these tenants are due. */
async function makeDue(tenantIds: string[]): Promise<number> {
  const due = await rows(
    `update app.schedules as s set next_run_at = now() - interval '1 minute'
     where exists (select from app.tenants as t where t.tier = s.tier and t.shard = s.shard and t.tenant_id = any ($1))
     returning s.shard`,
    [tenantIds],
  );
  return due.length;
}

const runsFor = (tenantIds: string[]) =>
  rows("select * from app.job_runs where tenant_id = any ($1) and slot is not null order by tenant_id, id", [
    tenantIds,
  ]);

beforeEach(async () => {
  // Periods so long that no turn begins by itself while a test runs; and nobody else is due.
  await rows("update app.tiers set every = interval '16000 days'");
  await rows("update app.schedules set next_run_at = 'infinity'");
});
afterAll(() => pool.end());

describe("it works", () => {
  test("a tenant whose shard is due gets a run and its token", async () => {
    const [tenantId] = (await addTenants(1, "HIGH_VALUE")) as [string];
    expect(await makeDue([tenantId])).toBe(1);
    expect(await tick()).toEqual({ runs: 1, shards: 1 });

    const [run] = await runsFor([tenantId]);
    expect(run).toMatchObject({ kind: "analysis", state: "PENDING", attempt: 0, priority: 1, input: {} });
    const [token, ...more] = await runs.tokens(run!["id"]);
    expect(more).toEqual([]);
    expect(token).toMatchObject({
      task: "run",
      payload: { tenant_id: tenantId, run_id: run!["id"] },
      priority: 1,
      key: `run:${run!["id"]}:0`,
    });
    expect(token!["run_at"].getTime()).toBeLessThanOrEqual(Date.now());
    expect(await runs.history(run!["id"])).toEqual(["PENDING"]);

    const [shard] = await rows(
      "select s.* from app.schedules as s join app.tenants as t using (tier, shard) where t.tenant_id = $1",
      [tenantId],
    );
    expect(shard!["last_slot"]).toBe(run!["slot"]);
    expect(shard!["next_run_at"].getTime()).toBeGreaterThan(Date.now());
    expect(await rows("select slot from app.job_slots where run_id = $1", [run!["id"]])).toEqual([
      { slot: run!["slot"] },
    ]);
  });

  test("higher tiers go first in the queue", async () => {
    const tiers = ["HIGH_VALUE", "ACTIVE", "DORMANT"];
    const tenants = (await Promise.all(tiers.map((tier) => addTenants(1, tier)))).flat();
    await makeDue(tenants);
    await tick();
    const made = await runsFor(tenants);
    expect(tenants.map((id) => made.find((run) => run["tenant_id"] === id)!["priority"])).toEqual([1, 2, 3]);
  });

  test("only what is due, and no more shards than asked, the longest due first", async () => {
    const tenants = await addTenants(60, "DORMANT");
    const due = await makeDue(tenants);
    const [first] = await rows(
      `update app.schedules as s set next_run_at = next_run_at - interval '1 hour'
       from app.tenants as t where t.tenant_id = $1 and s.tier = t.tier and s.shard = t.shard returning s.shard`,
      [tenants[0]],
    );
    expect(await tick(1)).toMatchObject({ shards: 1 });
    const ofFirst = await rows(
      "select tenant_id from app.tenants where shard = $2 and tenant_id = any ($1)",
      [tenants, first!["shard"]],
    );
    expect((await runsFor(tenants)).map((run) => run["tenant_id"])).toEqual(
      ofFirst.map((row) => row["tenant_id"]).sort(),
    );
    expect(await tick(2)).toMatchObject({ shards: 2 });
    expect(await tick(48)).toMatchObject({ shards: due - 3 });
    expect(await runsFor(tenants)).toHaveLength(60);
  });

  test("a tenant that is suspended is passed over, and served again when it is not", async () => {
    const [suspended, active] = (await addTenants(2, "ACTIVE")) as [string, string];
    await rows("update app.tenants set status = 'SUSPENDED' where tenant_id = $1", [suspended]);
    await makeDue([suspended, active]);
    await tick(48);
    expect((await runsFor([suspended, active])).map((run) => run["tenant_id"])).toEqual([active]);
    await rows("update app.tenants set status = 'ACTIVE' where tenant_id = $1", [suspended]);
    await makeDue([suspended]);
    await tick(48);
    expect(await runsFor([suspended])).toHaveLength(1);
  });

  test.each([
    ["PENDING", "state = 'PENDING'", false],
    ["RUNNING", "state = 'RUNNING', attempt = 1, lease_until = now()", false],
    ["FAILED", "state = 'FAILED', error_code = 'x'", false],
    ["COMPLETED", "state = 'COMPLETED', finished_at = now()", true],
    ["DEAD_LETTER", "state = 'DEAD_LETTER', error_code = 'x', finished_at = now()", true],
  ])("while the last run is %s", async (state, columns, another) => {
    const [tenantId] = (await addTenants(1, "ACTIVE")) as [string];
    // The row is put there as it is: its way to this state is not what this is about.
    const names = columns.split(", ").map((column) => column.split(" = "));
    await rows(
      `insert into app.job_runs (tenant_id, kind, ${names.map(([name]) => name)})
       values ($1, 'analysis', ${names.map(([, value]) => value)})`,
      [tenantId],
    );
    await makeDue([tenantId]);
    await tick(48);
    expect(await runsFor([tenantId]), state).toHaveLength(another ? 1 : 0);
  });

  test("after long downtime a tenant gets one run, and its next turn is ahead", async () => {
    await rows("update app.tiers set every = interval '1 hour' where tier = 'HIGH_VALUE'");
    const [tenantId] = (await addTenants(1, "HIGH_VALUE")) as [string];
    await makeDue([tenantId]);
    await rows("update app.schedules set next_run_at = now() - interval '90 days' where next_run_at < now()");
    await tick(48);
    expect(await runsFor([tenantId])).toHaveLength(1);
    const [shard] = await rows(
      `select s.next_run_at, extract(epoch from s.next_run_at - clock_timestamp())::float8 as seconds
       from app.schedules as s join app.tenants as t using (tier, shard) where t.tenant_id = $1`,
      [tenantId],
    );
    expect(shard!["seconds"]).toBeGreaterThan(-1);
    expect(shard!["seconds"]).toBeLessThanOrEqual(3_600);
  });
});

describe("it works twice", () => {
  test("thirty-two ticks at once: each tenant one run and one token, no deadlock; the next tick finds nothing", async () => {
    const tenants = (
      await Promise.all(["HIGH_VALUE", "ACTIVE", "DORMANT"].map((tier) => addTenants(150, tier)))
    ).flat();
    await rows("update app.schedules set next_run_at = now() - interval '1 minute'");
    const before = await deadlocks();
    const answers = await Promise.all(Array.from({ length: 32 }, () => tick(3)));
    expect(answers.reduce((sum, each) => sum + each.shards, 0)).toBe(48);

    const made = await runsFor(tenants);
    expect(made).toHaveLength(450);
    expect(new Set(made.map((run) => run["tenant_id"])).size).toBe(450);
    const [queued] = await rows(
      `select count(*)::int as n, count(distinct payload ->> 'run_id')::int as runs from graphile_worker._private_jobs
       where (payload ->> 'tenant_id')::uuid = any ($1)`,
      [tenants],
    );
    expect(queued).toEqual({ n: 450, runs: 450 });
    expect(await tick(48)).toEqual({ runs: 0, shards: 0 });
    expect(await runsFor(tenants)).toHaveLength(450);
    expect((await deadlocks()) - before).toBe(0);
  });

  test("what another tick is at is passed over, not waited for", async () => {
    const tenants = await addTenants(40, "DORMANT");
    const due = await makeDue(tenants);
    const held = {
      text: "select from app.schedules as s where exists (select from app.tenants as t where t.tenant_id = $1 and t.tier = s.tier and t.shard = s.shard)",
      values: [tenants[0]],
    };
    const [told] = await besides(database, held, { pool }, "select shards from app.schedule_tick(48)");
    expect(told).toEqual({ shards: due - 1 });
    expect(await tick(48)).toMatchObject({ shards: 1 });
    expect(await runsFor(tenants)).toHaveLength(40);
  });

  test("a turn that was taken is not taken again, though the clock went back and the run has ended", async () => {
    const [tenantId] = (await addTenants(1, "ACTIVE")) as [string];
    await makeDue([tenantId]);
    await tick(48);
    await rows("delete from app.job_runs where tenant_id = $1", [tenantId]);
    await makeDue([tenantId]);
    await tick(48);
    expect(await runsFor([tenantId])).toEqual([]);
  });
});

describe("slot_of", () => {
  const slotOf = async (at: string, every: string, shard: number) =>
    (
      await rows(
        "select slot::int, to_char(next_run_at at time zone 'UTC', 'HH24:MI:SS') as next from app_private.slot_of($1, $2, $3::smallint)",
        [at, every, shard],
      )
    )[0]!;

  test.each([
    ["2026-11-20 12:00:00+00", "1 hour", 0, "13:00:00"],
    ["2026-11-20 12:59:59.999+00", "1 hour", 0, "13:00:00"],
    ["2026-11-20 12:00:00+00", "1 hour", 4, "12:15:00"],
    ["2026-11-20 12:15:00+00", "1 hour", 4, "13:15:00"],
    ["2026-11-20 12:00:00+00", "1 hour", 15, "12:56:15"],
    ["2026-11-20 12:00:00+00", "3 hours", 0, "15:00:00"],
    ["2026-11-20 12:00:00+00", "6 hours", 8, "15:00:00"],
  ])("at %s, every %s, shard %i is next due at %s", async (at, every, shard, next) => {
    expect((await slotOf(at, every, shard))["next"]).toBe(next);
  });

  test("turns are counted one by one, and begin where the one before said", async () => {
    const before = await slotOf("2026-11-20 12:14:59.999+00", "1 hour", 4);
    const after = await slotOf("2026-11-20 12:15:00+00", "1 hour", 4);
    expect(after["slot"]).toBe(before["slot"] + 1);
  });

  test("shards of a tier are due at sixteen moments, evenly apart", async () => {
    const due = await rows(
      `select distinct extract(epoch from n.next_run_at)::bigint % 3600 as second
       from generate_series(0, 15) as s (shard) cross join lateral app_private.slot_of(now(), '1 hour', s.shard::smallint) as n
       order by 1`,
    );
    expect(due.map((row) => Number(row["second"]))).toEqual(
      Array.from({ length: 16 }, (_, shard) => shard * 225),
    );
  });
});

test("it refuses the service", async () => {
  await expect(database.service.pool.query("select * from app.schedule_tick()")).rejects.toMatchObject({
    code: "42501",
  });
});
