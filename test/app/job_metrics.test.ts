// sql/app/job_metrics.sql: what a scrape shows of the database, by kind, cohort and state, and never of a tenant.
import { beforeAll, describe, expect, test } from "vitest";
import { oneAs, refusal } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { queueOf } from "../support/queue_scene.ts";

const database = testDatabase();
const queue = queueOf(database);
const { sql } = queue;

type Value = { name: string; labels: Record<string, string>; value: number };

const values = async (): Promise<Value[]> =>
  (await database.worker.pool.query("select name, labels, value from app.job_metrics()")).rows;

/** The value of a gauge; undefined when there is none. */
async function value(name: string, labels: Record<string, string> = {}): Promise<number | undefined> {
  const found = (await values()).filter(
    (each) =>
      each.name === name && Object.entries(labels).every(([label, wanted]) => each.labels[label] === wanted),
  );
  expect(found.length, name).toBeLessThan(2);
  return found[0]?.value;
}

const runs = (state: string, cohort = "ACTIVE", job_type = "solo") =>
  value("holdfast_job_runs", { job_type, cohort, state });

beforeAll(async () => {
  await queue.addKind("solo", { max_running: 1, max_retries: 0, timeout_seconds: 100 });
  await queue.addKind("again");
  await queue.beat();
});

test("before anything has happened: zeros, for each kind, cohort and state", async () => {
  const all = await values();
  const [kinds] = await sql("select count(*)::int as n from app.job_kinds");
  expect(all.filter((each) => each.name === "holdfast_job_runs")).toHaveLength(kinds!["n"] * 3 * 6);
  expect(await runs("parked")).toBe(0);
  expect(await value("holdfast_queue_tokens")).toBe(0);
  expect(await value("holdfast_job_fairness_index")).toBeUndefined();
  expect(await value("holdfast_workers_alive")).toBe(1);
});

test("runs are counted where they are, with the age of the oldest and what is left of a lease", async () => {
  const [one, two] = [await database.addTenant(), await database.addTenant({ tier: "DORMANT" })];
  const first = await queue.add(one.tenantId, "solo");
  await queue.add(one.tenantId, "solo");
  await queue.add(one.tenantId, "solo", 3_600);
  await queue.add(two.tenantId, "solo");
  await queue.claim(one.tenantId, first);
  expect(await runs("running")).toBe(1);
  expect(await runs("parked")).toBe(1);
  expect(await runs("later")).toBe(1);
  expect(await runs("admitted", "DORMANT")).toBe(1);
  expect(await value("holdfast_queue_tokens")).toBe(2);
  await sql("update app.job_runs set started_at = now() - interval '50 s' where id = $1", [first]);
  await sql(
    "update app.job_runs set available_at = now() - interval '70 s' where token_at is null and state = 'PENDING' and available_at <= now()",
  );
  const labels = { job_type: "solo", cohort: "ACTIVE" };
  expect(await value("holdfast_job_oldest_running_ratio", labels)).toBeCloseTo(0.5, 1);
  expect(await value("holdfast_job_oldest_running_seconds", labels)).toBeCloseTo(50, 0);
  expect(await value("holdfast_job_oldest_pending_seconds", labels)).toBeCloseTo(70, 0);
  expect(await value("holdfast_job_lease_margin_seconds", { job_type: "solo" })).toBeCloseTo(20, -1);

  await queue.fail(one.tenantId, first, 1, "llm_timeout");
  expect(await runs("dead_letter")).toBe(1);
  const again = await queue.add(one.tenantId, "again");
  await queue.claim(one.tenantId, again);
  await queue.fail(one.tenantId, again, 1, "llm_timeout");
  expect(await runs("retrying", "ACTIVE", "again")).toBe(1);
  await sql("update app.job_runs set discarded_at = now() where state = 'DEAD_LETTER'");
  expect(await runs("dead_letter")).toBe(0);
});

test("fairness is 1 when tenants end as many runs, and nears 1/n when one ends most of them", async () => {
  await sql("update app.job_runs set finished_at = now() - interval '1 h' where finished_at is not null");
  const tenants = [await database.addTenant(), await database.addTenant()];
  const end = async (tenantId: string) => {
    const run = await queue.add(tenantId, "again");
    await queue.claim(tenantId, run);
    await queue.complete(tenantId, run, 1);
  };
  for (const { tenantId } of tenants) await end(tenantId);
  expect(await value("holdfast_job_fairness_index")).toBe(1);
  for (let n = 0; n < 8; n += 1) await end(tenants[0]!.tenantId);
  expect(await value("holdfast_job_fairness_index")).toBeCloseTo(100 / (2 * 82), 6);
});

test("replays are counted by kind, those of the runs that are kept", async () => {
  const replays = (job_type: string) => value("holdfast_job_replays", { job_type });
  const { tenantId } = await database.addTenant();
  const dead = async () => {
    const run = await queue.add(tenantId, "solo");
    const claimed = await queue.claim(tenantId, run);
    await queue.fail(tenantId, run, claimed!["attempt"], "llm_timeout");
    return run;
  };
  const replay = (run: string) =>
    oneAs(database.service, tenantId, "select * from app.job_replay($1, $2, $3, 'joe', 'it is mended')", [
      run,
    ]);
  const run = await dead();
  expect(await replays("solo")).toBe(0);
  await replay(run);
  expect(await replays("solo")).toBe(1);
  await refusal(replay(run), "job_not_dead");
  expect(await replays("solo")).toBe(1);
  // A refusal reaches us before its lock is gone, and a claim passes over what is locked.
  await expect.poll(() => queue.claim(tenantId, run)).toMatchObject({ attempt: 2 });
  await queue.fail(tenantId, run, 2, "llm_timeout");
  await replay(run);
  expect(await replays("solo")).toBe(2);
  await queue.claim(tenantId, run);
  await queue.fail(tenantId, run, 3, "llm_timeout");
  const other = await dead();
  await replay(other);
  expect(await replays("solo")).toBe(3);
  expect(await replays("again")).toBe(0);
  const [{ kinds }] = (await sql("select count(*)::int as kinds from app.job_kinds")) as [{ kinds: number }];
  expect((await values()).filter((each) => each.name === "holdfast_job_replays")).toHaveLength(kinds);
  await sql("delete from app.job_runs where id = $1", [run]);
  expect(await replays("solo")).toBe(1);
});

test("the scheduler is as late as its oldest turn that is due, and not while it is paused", async () => {
  await sql("update app.schedules set next_run_at = now() + interval '1 h'");
  expect(await value("scheduler_lag_seconds", { cohort: "ACTIVE" })).toBe(0);
  await sql(
    "update app.schedules set next_run_at = now() - interval '90 s', missed_slots = 4 where tier = 'ACTIVE' and shard = 9",
  );
  expect(await value("scheduler_lag_seconds", { cohort: "ACTIVE" })).toBeCloseTo(90, 0);
  expect(await value("holdfast_scheduler_missed_turns", { cohort: "ACTIVE" })).toBe(4);
  await sql("update app.tiers set paused_at = now() where tier = 'ACTIVE'");
  expect(await value("scheduler_lag_seconds", { cohort: "ACTIVE" })).toBe(0);
});

test("what slows a queue down: dead rows, vacuums, the oldest snapshot, deadlocks", async () => {
  const tables = (await values())
    .filter((each) => each.name === "holdfast_table_dead_tuples")
    .map((each) => each.labels["table"]);
  expect(tables.sort()).toEqual(
    expect.arrayContaining(["_private_jobs", "job_gates", "job_run_events", "job_runs", "job_slots"]),
  );
  expect(await value("holdfast_database_deadlocks")).toBe(0);

  const writer = await database.superuser.connect();
  try {
    await writer.query("begin; select pg_current_xact_id()");
    for (let n = 0; n < 20; n += 1) await sql("select pg_current_xact_id()");
    expect(await value("holdfast_oldest_xmin_age")).toBeGreaterThanOrEqual(20);
  } finally {
    await writer.query("rollback");
    writer.release();
  }
});

describe("who may read it", () => {
  test("no label names a tenant", async () => {
    const labels = new Set((await values()).flatMap((each) => Object.keys(each.labels)));
    expect([...labels].sort()).toEqual(["cohort", "job_type", "state", "table"]);
    const text = JSON.stringify(await values());
    for (const { name, tenant_id } of await sql("select name, tenant_id from app.tenants")) {
      expect(text).not.toContain(name);
      expect(text).not.toContain(tenant_id);
    }
  });

  test("the worker, people and whoever may read metrics; not the endpoint", async () => {
    await queue.seen("select * from app.job_metrics()");
    const client = await database.superuser.connect();
    try {
      await client.query("begin; set local role holdfast_metrics");
      expect((await client.query("select * from ops.metrics")).rows.length).toBeGreaterThan(20);
    } finally {
      await client.query("rollback");
      client.release();
    }
    await expect(database.service.pool.query("select * from app.job_metrics()")).rejects.toMatchObject({
      code: "42501",
    });
  });
});

test("a worker is seen by its host and its process, while it beats", async () => {
  const seen = async (host: string, pid: number) =>
    (await database.worker.pool.query("select app.worker_seen(host => $1, pid => $2) as seen", [host, pid]))
      .rows[0].seen;
  await queue.beat("box:4711:pool-9");
  expect(await seen("box", 4711)).toBe(true);
  expect(await seen("box", 4712)).toBe(false);
  await sql("update app.job_workers set seen_at = now() - interval '21 s' where pid = 4711");
  expect(await seen("box", 4711)).toBe(false);
});
