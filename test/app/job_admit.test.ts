// sql/app/job_admit.sql with app_private.run_add, job_places and runs_admit: which runs have a token, however many wait.
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { claimsOf, type Named } from "../support/claims.ts";
import { type Row, raised } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const queue = claimsOf(database);
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
});
beforeEach(async () => {
  // What another test left waiting would be let in here.
  await queue.sql("update app.job_runs set available_at = 'infinity' where state in ('PENDING', 'FAILED')");
  await queue.sql("truncate graphile_worker._private_jobs");
});

const admitted = async (kind: string): Promise<Row[]> =>
  (await queue.runs(kind)).filter((row) => row["token_at"] !== null && row["state"] !== "COMPLETED");
const ranks = async (kind: string) => (await admitted(kind)).map((row) => row["token_rank"]);
const expectTokens = async (kind: string) => {
  const waiting = (await admitted(kind)).filter((row) => row["state"] === "PENDING");
  const keys = waiting.map((row) => `run:${row["id"]}:${row["attempt"]}`);
  expect((await queue.tokens(kind)).map((token) => token["key"]).sort()).toEqual(keys.sort());
};
/** As the worker and the queue do: the tokens are gone when they are claimed. */
const claim = async (kind: string, runs: Named[]) => {
  await queue.sql("delete from graphile_worker._private_jobs where (payload ->> 'run_id')::uuid = any ($1)", [
    runs.map((run) => run.runId),
  ]);
  return queue.claim(runs, kind);
};

describe("run_add", () => {
  test("a run has a place and a token while there are places; the next ones are parked", async () => {
    const kind = await queue.kind({ maxRunning: 3 });
    await queue.addMany(tenantId, kind, 5);
    expect((await queue.runs(kind)).map((row) => row["token_at"] !== null)).toEqual([
      ...[true, true, true],
      ...[false, false],
    ]);
    expect(await ranks(kind)).toEqual([0, 1, 2]);
    expect((await queue.tokens(kind)).map((token) => token["priority"])).toEqual([0, 10, 20]);
    await expectTokens(kind);
  });

  test("of ten thousand runs of one tenant a hundred are in the queue, and no other tenant waits behind them", async () => {
    const kind = await queue.kind();
    const busy = (await database.addTenant()).tenantId;
    await queue.addMany(busy, kind, 1_000);
    // The others in one statement, for run_add counts those that wait.
    await queue.sql(
      "insert into app.job_runs (tenant_id, kind) select $1, $2 from generate_series(1, 9000)",
      [busy, kind],
    );
    await queue.admit();
    expect(await queue.tokens(kind)).toHaveLength(100);
    const one = await queue.add(tenantId, kind);
    // The first of each tenant goes before the second of any.
    expect((await queue.tokens(kind)).slice(0, 2).map((token) => token["run_id"])).toContain(one.runId);
    await queue.sql("update app.job_runs set available_at = 'infinity' where kind = $1", [kind]);
  });

  test("a tier of a greater weight has more places, and its tokens go first", async () => {
    const kind = await queue.kind({ maxRunning: 2 });
    const tenants = new Map<string, string>();
    for (const tier of ["HIGH_VALUE", "ACTIVE", "DORMANT"])
      tenants.set(tier, (await database.addTenant({ tier })).tenantId);
    for (const whose of tenants.values()) await queue.addMany(whose, kind, 6);
    const prioritiesOf = async (tier: string) =>
      (await queue.tokens(kind))
        .filter((t) => t["tenant_id"] === tenants.get(tier))
        .map((t) => t["priority"]);
    expect(await prioritiesOf("HIGH_VALUE")).toEqual([0, 5, 10, 15]);
    expect(await prioritiesOf("ACTIVE")).toEqual([0, 10]);
    expect(await prioritiesOf("DORMANT")).toEqual([0]);
  });

  test("what is due later than in a minute is parked until then", async () => {
    const kind = await queue.kind();
    const run = await queue.add(tenantId, kind, { seconds: 3_600 });
    expect(await queue.admit()).toBe(0);
    expect(await queue.row(run)).toMatchObject({ token_at: null });
    await queue.sql("update app.job_runs set available_at = now() where id = $1", [run.runId]);
    expect(await queue.admit()).toBe(1);
    await expectTokens(kind);
  });

  test("however many are due within the minute, no more are let in than there are places", async () => {
    const kind = await queue.kind({ maxRunning: 2 });
    for (let n = 0; n < 8; n += 1) await queue.add(tenantId, kind, { seconds: 30 });
    await queue.admit();
    expect((await queue.tokens(kind)).length).toBeLessThanOrEqual(2);
  });

  test("one of a later moment takes no place from one that is due", async () => {
    const kind = await queue.kind({ maxRunning: 1 });
    await queue.add(tenantId, kind, { seconds: 50 });
    const due = await queue.add(tenantId, kind);
    await queue.admit();
    expect(await queue.row(due)).toMatchObject({ token_at: expect.any(Date) });
    expect(await queue.claim([due])).toHaveLength(1);
  });

  test("no more may wait than the kind says, of each tenant", async () => {
    const kind = await queue.kind({ maxWaiting: 3 });
    const runs = await queue.addMany(tenantId, kind, 3);
    expect(await raised(queue.add(tenantId, kind))).toMatchObject({
      name: "job_queue_full",
      sqlstate: "JB103",
      detail: { kind, max_waiting: 3 },
    });
    await queue.add((await database.addTenant()).tenantId, kind);
    await claim(kind, [runs[0]!]);
    await raised(queue.add(tenantId, kind)); // a run that runs counts too
    await queue.complete(runs[0]!);
    await queue.add(tenantId, kind);
    expect(await queue.runs(kind)).toHaveLength(5);
  });

  test("a kind that is not there is refused", async () => {
    expect(await raised(queue.add(tenantId, "nothing"))).toMatchObject({
      name: "job_kind_unknown",
      sqlstate: "JB102",
    });
  });
});

describe("a place is taken again when a run ends", () => {
  test("by the run of the lowest priority number, then the oldest, in the same transaction and with the free rank", async () => {
    const kind = await queue.kind({ maxRunning: 3 });
    const runs = await queue.addMany(tenantId, kind, 5);
    const urgent = await queue.add(tenantId, kind, { priority: -1 });
    await claim(kind, runs.slice(0, 3));
    await queue.complete(runs[1]!);
    expect(await queue.row(urgent)).toMatchObject({ token_at: expect.any(Date), token_rank: 1 });
    await queue.complete(runs[0]!);
    expect(await queue.row(runs[3]!)).toMatchObject({ token_at: expect.any(Date), token_rank: 0 });
    expect(await queue.row(runs[4]!)).toMatchObject({ token_at: null });
    expect((await ranks(kind)).sort()).toEqual([0, 1, 2]);
    await expectTokens(kind);
  });

  test("also when it ends as a dead letter, or is cancelled; not while it waits for another attempt", async () => {
    const kind = await queue.kind({ maxRunning: 1, maxRetries: 0 });
    const [dead, next, last] = await queue.addMany(tenantId, kind, 3);
    await claim(kind, [dead!]);
    expect(await queue.fail(dead!, "x")).toMatchObject({ state: "DEAD_LETTER" });
    expect(await ranks(kind)).toEqual([0, 0]); // of the dead one too, which counts no more
    await queue.sql(
      "update app.job_runs set state = 'DEAD_LETTER', error_code = 'job_cancelled', finished_at = now(), discarded_at = now() where id = $1",
      [next!.runId],
    );
    expect(await queue.row(last!)).toMatchObject({ token_at: expect.any(Date), token_rank: 0 });
  });

  test("a run that waits for its next attempt leaves its place to another of its tenant", async () => {
    const kind = await queue.kind({ maxRunning: 1 });
    const [failed, next] = await queue.addMany(tenantId, kind, 2);
    await claim(kind, [failed!]);
    await queue.fail(failed!, "x");
    expect(await queue.admit()).toBe(1);
    expect(await queue.row(next!)).toMatchObject({ token_at: expect.any(Date) });
    expect(await claim(kind, [next!])).toHaveLength(1);
  });

  test("a wide window is filled again when half of it has begun, for each filling wakes the workers", async () => {
    const kind = await queue.kind();
    const runs = await queue.addMany(tenantId, kind, 160);
    await claim(kind, runs.slice(0, 40));
    for (const run of runs.slice(0, 39)) await queue.complete(run);
    expect(await admitted(kind)).toHaveLength(61);
    await claim(kind, runs.slice(40, 50));
    await queue.complete(runs[39]!);
    expect(await admitted(kind)).toHaveLength(100);
    await expectTokens(kind);
  });

  test("what may run at a time is filled at once, however many that are", async () => {
    const kind = await queue.kind({ maxRunning: 12 });
    const runs = await queue.addMany(tenantId, kind, 30);
    await claim(kind, runs.slice(0, 12));
    await queue.complete(runs[5]!);
    expect(await admitted(kind)).toHaveLength(12);
  });

  test("ranks that are held twice make no places", async () => {
    const kind = await queue.kind({ maxRunning: 3 });
    const runs = await queue.addMany(tenantId, kind, 6);
    await queue.sql("update app.job_runs set token_rank = 0 where kind = $1", [kind]);
    await claim(kind, runs.slice(0, 3));
    await queue.complete(runs[0]!);
    expect(await admitted(kind)).toHaveLength(3);
  });
});

describe("job_admit", () => {
  afterEach(async () => {
    await queue.sql("update app.job_kinds set paused_at = null");
  });

  test("it lets in what a pause has parked, up to the places, and the second time nothing", async () => {
    const kind = await queue.kind({ maxRunning: 2 });
    await queue.sql("update app.job_kinds set paused_at = now() where kind = $1", [kind]);
    const tenants = [tenantId, (await database.addTenant()).tenantId];
    for (const whose of tenants) await queue.addMany(whose, kind, 4);
    expect(await queue.tokens(kind)).toEqual([]);
    expect(await queue.admit()).toBe(0);
    await queue.sql("update app.job_kinds set paused_at = null where kind = $1", [kind]);
    expect(await queue.admit()).toBe(4);
    expect(await queue.admit()).toBe(0);
    await expectTokens(kind);
  });

  test("eight at once let each in once", async () => {
    const kind = await queue.kind({ maxRunning: 4 });
    await queue.sql("update app.job_kinds set paused_at = now() where kind = $1", [kind]);
    const tenants = await Promise.all(Array.from({ length: 10 }, () => database.addTenant()));
    for (const each of tenants) await queue.addMany(each.tenantId, kind, 6);
    await queue.sql("update app.job_kinds set paused_at = null where kind = $1", [kind]);
    await Promise.all(Array.from({ length: 8 }, () => queue.admit()));
    await queue.admit();
    // Two that look at the same moment may both let one in: what is too many is parked again by its claim.
    expect((await queue.tokens(kind)).length).toBeGreaterThanOrEqual(40);
    expect(new Set((await queue.tokens(kind)).map((token) => token["key"])).size).toBe(
      (await queue.tokens(kind)).length,
    );
    const first = (await queue.runs(kind)).map((row) => ({ tenantId: row["tenant_id"], runId: row["id"] }));
    expect(await queue.claim(first)).toHaveLength(40);
  });

  test("however many tenants and kinds wait for something else, one that is due has its turn", async () => {
    const blocked = (await database.addTenant()).tenantId;
    await queue.sql(
      `insert into app.job_runs (tenant_id, kind, available_at)
       select $1, 'blocked_' || n, now() + interval '1 day' from generate_series(1, 300) as n`,
      [blocked],
    );
    const kind = await queue.kind();
    const last = (await database.addTenant()).tenantId;
    const run = await queue.add(last, kind);
    await queue.sql("update app.job_runs set token_at = null where id = $1", [run.runId]);
    // It is told where it ended, and goes on there.
    let after: unknown[] = [null, null];
    let calls = 0;
    do {
      const { rows } = await database.worker.pool.query("select * from app.job_admit(50, $1, $2)", after);
      after = [rows[0].last_tenant_id, rows[0].last_kind];
      calls += 1;
    } while (after[0] !== null && calls < 40);
    expect(calls).toBeGreaterThan(6);
    expect(calls).toBeLessThan(40);
    expect(await queue.row(run)).toMatchObject({ token_at: expect.any(Date) });
  });

  test("a run that ran with a lost token still holds its place", async () => {
    const kind = await queue.kind({ maxRunning: 1 });
    const runs = await queue.addMany(tenantId, kind, 3);
    expect(await queue.claim([runs[2]!])).toHaveLength(1); // parked, and claimed by a token of before
    await queue.sql("update app.job_runs set token_at = null where id = $1", [runs[0]!.runId]);
    expect(await queue.admit()).toBe(0);
  });

  test("it refuses the service", async () => {
    await expect(database.service.pool.query("select app.job_admit()")).rejects.toMatchObject({
      code: "42501",
    });
    await database.ops.query("select app.job_admit()");
  });
});
